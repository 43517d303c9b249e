"""`flambeau prepare` as it is typed: progress, errors on one line, exit codes, Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flambeau.testing.hub import HubServer
from flambeau.testing.models import tiny_model

COMMAND = [sys.executable, "-m", "flambeau.cli.main", "prepare"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny", "text-classification")


def environment(tmp_path: Path, endpoint: str = "http://127.0.0.1:9") -> dict[str, str]:
    return os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "NO_PROXY": "*",
        "PYTHONWARNINGS": "default",
    }


def prepare(
    *arguments: str, cwd: Path, endpoint: str = "http://127.0.0.1:9"
) -> subprocess.CompletedProcess[str]:
    """Run the command with a hub that is not there, unless `endpoint` names one."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        env=environment(cwd, endpoint),
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_hub_id_becomes_a_model_folder(model: Path, tmp_path: Path) -> None:
    """From an id alone to files to pack: every step is told, and nothing else is printed.

    A file of the working directory is not taken for a library of its name.
    """
    (tmp_path / "transformers.py").write_text("raise SystemExit('the wrong file')")
    with HubServer({"org/tiny-bert": model}) as hub:
        done = prepare("org/tiny-bert", cwd=tmp_path, endpoint=hub.endpoint)
        commit = hub.commit("org/tiny-bert")
    assert (done.returncode, done.stderr) == (0, "")
    downloading, loading, saved = done.stdout.splitlines()
    assert downloading.startswith(f"Downloading org/tiny-bert from {hub.endpoint}: 4 files, ")
    assert loading == f"Loading org/tiny-bert ({commit[:8]}) for text-classification"
    assert saved.startswith("Saved Transformer_model: config.json (")
    saved_file = tmp_path / "Transformer_model" / "model.safetensors"
    assert saved_file.stat().st_size == (model / "model.safetensors").stat().st_size


def test_options_win_over_the_configuration(model: Path, tmp_path: Path) -> None:
    """A file may say everything; what is given beside it counts more."""
    (tmp_path / "setup_config.json").write_text(
        json.dumps({"model_name": str(model), "mode": "question_answering", "num_labels": "0"})
    )
    done = prepare(
        "setup_config.json",
        *("--task", "text-classification", "--save-mode", "torchscript", "--num-labels", "2"),
        *("--max-length", "16", "--output", "out/traced"),
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Loading {model} for text-classification" in done.stdout
    assert "Tracing with 16 tokens" in done.stdout
    assert (tmp_path / "out" / "traced" / "traced_model.pt").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Nothing to prepare: no model given"),
        (["missing.yaml"], "There is no configuration file missing.yaml"),
        (["empty.yaml"], "empty.yaml has no handler section"),
        (["neuron.yaml"], "AWS neuron is not supported"),
        (["org/model", "--config", "setup.txt"], "setup.txt is no configuration"),
    ],
)
def test_wrong_requests_are_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    """Said at once, before any library is loaded."""
    (tmp_path / "empty.yaml").write_text("minWorkers: 1\n")
    (tmp_path / "neuron.yaml").write_text("handler: {model_name: m, hardware: neuron}\n")
    (tmp_path / "setup.txt").write_text("")
    done = prepare(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("flambeau: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_no_network_and_no_such_model_is_one_line(tmp_path: Path) -> None:
    """Which model, what was tried, what to do; and no empty folder stays behind."""
    done = prepare("org/tiny-bert", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    for part in (
        "org/tiny-bert",
        "http://127.0.0.1:9 is out of reach",
        "home/hub",
        "give a folder",
    ):
        assert part in done.stderr
    assert not (tmp_path / "Transformer_model").exists()


# Swallows whatever is raised in it, as `except:` in a library or a weak reference's callback does.
STUBBORN = """
import time
print("importing", flush=True)
while True:
    try:
        time.sleep(0.01)
    except BaseException:
        pass
"""


@pytest.mark.parametrize("library", [None, STUBBORN], ids=["as it is", "stubborn"])
def test_ctrl_c_ends_it_cleanly(model: Path, tmp_path: Path, library: str | None) -> None:
    """One line, exit code 130, no leftovers, and no process that goes on; in an import, too."""
    libraries, place = tmp_path / "libraries", tmp_path / "place"
    for folder in (libraries, place):
        folder.mkdir()
    if library:
        (libraries / "transformers.py").write_text(library)
    process = subprocess.Popen(
        [*COMMAND, str(model)],
        cwd=place,
        env=environment(tmp_path) | {"PYTHONPATH": str(libraries)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("Loading ")
    if library:
        assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    # Both pipes end only when the child has ended, too.
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (130, "")
    assert errors == "flambeau: interrupted; Transformer_model is as it was\n"
    assert list(place.iterdir()) == []
