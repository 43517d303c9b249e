"""Side by side with TorchServe's own archiver: what it packs is read, and ours says the same.

Set FLAMBEAU_TORCHSERVE_VENV to a virtual environment with torch-model-archiver 0.12.
"""

import json
import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from flambeau.archive.manifest import Manifest
from flambeau.archive.store import ModelStore, OpenedArchive
from flambeau.cli.torch_model_archiver import main

VENV = os.environ.get("FLAMBEAU_TORCHSERVE_VENV", "")
OURS_ONLY = {"createdOn", "archiverVersion"}
SUFFIXES = {"default": ".mar", "zip-store": ".mar", "tgz": ".tar.gz", "no-archive": ""}
FULL = (
    "--serialized-file w.bin --model-file net.py --handler dir/my.py --extra-files a.txt,data,*.json "
    "-r reqs.txt -c model.yaml --runtime python3"
)

pytestmark = [
    pytest.mark.peer,
    pytest.mark.slow,
    pytest.mark.skipif(not VENV, reason="FLAMBEAU_TORCHSERVE_VENV names no environment"),
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with files of every kind, and folders for both outputs."""
    for name in ("dir", "data/sub", "data/__pycache__", "data/.hidden", "theirs", "ours", "tmp"):
        (tmp_path / name).mkdir(parents=True)
    for name in (
        *("dir/my.py", "net.py", "a.txt", "reqs.txt", "model.yaml", "i.json", "h.py"),
        *("data/.dot", "data/c.txt", "data/sub/d.txt", "data/__pycache__/x", "data/.hidden/y"),
    ):
        (tmp_path / name).write_text(f"content of {name}\n")
    (tmp_path / "w.bin").write_bytes(os.urandom(2**16))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pack_twice(flags: str, archive_format: str = "default") -> tuple[Path, Path]:
    """Run both archivers with the same flags; return what TorchServe's and ours wrote."""
    common = ["--model-name", "m", "--version", "1.0", *flags.split()]
    common += ["--archive-format", archive_format]
    command = [f"{VENV}/bin/torch-model-archiver", *common, "--export-path", "theirs"]
    # its staging folder is <TMPDIR>/m, which two runs of this test must not share
    subprocess.run(command, check=True, env=os.environ | {"TMPDIR": "tmp"})
    assert main([*common, "--export-path", "ours"]) == 0
    name = f"m{SUFFIXES[archive_format]}"
    return Path("theirs") / name, Path("ours") / name


def opened(path: Path) -> OpenedArchive:
    """Open a packed model as the server does."""
    return ModelStore(path.parent, Path("cache").absolute()).open(path)


def tree(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder, the manifest left out."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {
        name: path.read_bytes()
        for name, path in files.items()
        if path.is_file() and name != "MAR-INF/MANIFEST.json"
    }


def manifest_json(model_dir: Path) -> dict[str, object]:
    """Return the manifest as it is written, without what may differ."""
    record = json.loads((model_dir / "MAR-INF" / "MANIFEST.json").read_text())
    assert record.keys() >= OURS_ONLY
    return {key: value for key, value in record.items() if key not in OURS_ONLY}


@pytest.mark.parametrize("archive_format", SUFFIXES)
def test_same_archive(archive_format: str) -> None:
    """In every format, both archives are read and hold the same files and manifest."""
    theirs, ours = (opened(path) for path in pack_twice(FULL, archive_format))
    assert tree(theirs.model_dir) == tree(ours.model_dir)
    assert {"w.bin", "sub/d.txt", ".dot", "i.json"} <= tree(ours.model_dir).keys()
    assert manifest_json(theirs.model_dir) == manifest_json(ours.model_dir)
    assert theirs.manifest.archiver_version == "0.12.0"
    assert theirs.manifest.model == ours.manifest.model


@pytest.mark.parametrize(
    "flags",
    [
        "--handler text_classifier",
        "--handler base_handler --runtime python",
        "--handler h.py",
        "--handler h",
        "--handler ./h",
        "--handler dir/my:entry",
        "--handler BaseHandler --runtime LSP",
        "--handler h.py --extra-files data/sub/*",
        "--handler h.py --serialized-file w.bin",
    ],
)
def test_same_manifest(flags: str) -> None:
    """For the same flags the manifest is the same, key by key and in the same order."""
    theirs, ours = (opened(path) for path in pack_twice(flags))
    assert list(manifest_json(theirs.model_dir).items()) == list(
        manifest_json(ours.model_dir).items()
    )
    assert tree(theirs.model_dir) == tree(ours.model_dir)


def test_their_archiver_accepts_what_ours_is_made_of() -> None:
    """Our .mar is a plain zip archive with no folder entries, as theirs is."""
    theirs, ours = pack_twice("--handler h.py --extra-files data")
    assert sorted(zipfile.ZipFile(theirs).namelist()) == sorted(zipfile.ZipFile(ours).namelist())


@pytest.mark.parametrize(
    ("flags", "status"),
    [
        ("--handler h.py --model-name !", 1),
        ("--handler absent.py --model-name m", 1),
        ("--handler h.py --model-name m --extra-files absent", 1),
        ("--handler h.py --model-name m --serialized-file absent", 1),
        ("--handler h.py", 2),
        ("--handler h.py --model-name m --runtime java", 2),
    ],
)
def test_same_exit_status(flags: str, status: int) -> None:
    """A failure has the same exit status."""
    arguments = ["--version", "1.0", *flags.split()]
    command = [f"{VENV}/bin/torch-model-archiver", *arguments]
    theirs = subprocess.run(
        command, check=False, capture_output=True, env=os.environ | {"TMPDIR": "tmp"}
    )
    assert theirs.returncode == status
    if status == 2:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
    else:
        assert main(arguments) == 1


def test_reading_without_their_manifest() -> None:
    """An archive that lost its manifest is read as one that says nothing about itself."""
    theirs, _ = pack_twice("--handler h.py", "no-archive")
    (theirs / "MAR-INF" / "MANIFEST.json").unlink()
    assert opened(theirs).manifest == Manifest()
