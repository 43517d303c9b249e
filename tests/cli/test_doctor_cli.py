"""`flambeau doctor` as a process: text, JSON, exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flambeau.archive.pack import PackRequest, pack

GOOD = "def handle(data, context):\n    return list(data)\n"
BAD = "import absent_package\n" + GOOD


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with an archive that is sound and one that is not."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "store").mkdir()
    for name, code in (("good", GOOD), ("bad", BAD)):
        (folder / f"{name}_handler.py").write_text(code)
        pack(
            PackRequest(
                model_name=name, version="2.0", handler=str(folder / f"{name}_handler.py"),
                export_path=folder / "store",
            )
        )  # fmt: skip
    return folder / "store"


def doctor(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flambeau.cli.main", "doctor", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_sound_archive(store: Path) -> None:
    """Exit code 0; who answers is told."""
    done = doctor(store / "good.mar")
    assert done.returncode == 0
    assert "good.mar: good 2.0, answered by the archive's own good_handler.py" in done.stdout
    assert "nothing to report" in done.stdout


def test_a_broken_archive(store: Path) -> None:
    """Exit code 1; one line per finding: how bad, where, what, what to do."""
    done = doctor(store / "bad.mar")
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("  error ")]
    assert "bad_handler.py:1: absent_package is not installed here" in line
    assert "pack it with --extra-files" in line
    assert "pip install absent" not in line  # the name may be somebody else's package


def test_a_store(store: Path) -> None:
    """A table with one line per archive, and the details below; nothing is cut in a pipe."""
    done = doctor(store)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["errors", "warnings", "notes", "archive", "answered", "by"]
    assert lines[1].split()[:4] == ["1", "0", "0", "bad.mar"]
    assert lines[2].split()[:4] == ["0", "0", "0", "good.mar"]
    assert any(line.startswith("bad.mar: ") for line in lines)


def test_json(store: Path) -> None:
    """The same as a document; the exit code is the same too."""
    done = doctor(store, "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["environment"] == []
    bad, good = document["archives"]
    assert good["findings"] == []
    (finding,) = bad["findings"]
    assert finding["severity"] == "error"
    assert (finding["code"], finding["where"]) == ("import", "bad_handler.py:1")


@pytest.mark.parametrize("arguments", [[], ["absent.mar"], ["--no-such-flag", "x"]])
def test_wrong_usage(arguments: list[str]) -> None:
    """Exit code 2, and a message on stderr."""
    done = doctor(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr
