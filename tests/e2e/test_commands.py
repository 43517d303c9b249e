"""The `flambeau` command as a user types it: real processes, what they print, how they end."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flambeau.cli.targets import Choices, resolve
from flambeau.testing.hub import HubServer
from flambeau.testing.server import RunningServer
from flambeau.testing.waiting import wait_until
from tests.e2e.conftest import Models

COMMAND = str(Path(sys.executable).with_name("flambeau"))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A cache of this module's own, and no hub."""
    return os.environ | {
        "FLAMBEAU_CACHE": str(tmp_path_factory.mktemp("cache")),
        "HF_HOME": str(tmp_path_factory.mktemp("hub")),
        "HF_ENDPOINT": "http://127.0.0.1:9",  # the discard port: nothing listens
        "COLUMNS": "100",
    }


def flambeau(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@contextlib.contextmanager
def serving(
    environment: dict[str, str], log: Path, *arguments: str
) -> Iterator[subprocess.Popen[bytes]]:
    """`flambeau serve …` on free ports, until the block ends."""
    ports = ["--port", "0", "--management-port", "0", "--metrics-port", "0"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [COMMAND, "serve", *arguments, *ports], env=environment, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_serve_a_folder_prints_a_curl_line_that_works(
    models: Models, environment: dict[str, str], tmp_path: Path
) -> None:
    """From a `save_pretrained` folder to an answer, with the task inferred; Ctrl-C ends with 0."""
    log = tmp_path / "serve.log"
    with serving(environment, log, str(models.folder("text-classification"))) as process:
        wait_until(lambda: "Ctrl-C" in log.read_text() or process.poll() is not None, 90)
        printed = log.read_text()
        curl = re.search(r"^  (curl .+)$", printed, re.MULTILINE)
        assert curl, printed
        answer = subprocess.run(
            ["bash", "-c", f"{curl.group(1)} -sS"], capture_output=True, text=True, check=True
        )
        assert {entry["label"] for entry in json.loads(answer.stdout)} >= {"POSITIVE"}
        for line in ("predictions", "health", "management", "metrics"):
            assert re.search(rf"^  {line} +http://127\.0\.0\.1:\d+/", printed, re.MULTILINE)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_predict_answers_without_a_server(models: Models, environment: dict[str, str]) -> None:
    """One input, one answer on stdout, nothing else."""
    question = json.dumps({"question": "who", "context": "Ada Lovelace lived in London"})
    done = flambeau(environment, "predict", str(models.folder("question-answering")), question)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["answer"] in "Ada Lovelace lived in London"
    assert done.stderr == ""


def test_a_hub_id_is_fetched_and_answers(
    models: Models, environment: dict[str, str], tmp_path: Path
) -> None:
    """By id from a server that speaks the hub's API; the second time from the cache, without it."""
    home = environment | {"HF_HOME": str(tmp_path)}
    with HubServer({"org/tiny": models.folder("text-classification")}) as hub:
        asked = ("predict", "org/tiny", "the movie was great", "--output", "legacy")
        first = flambeau(home | {"HF_ENDPOINT": hub.endpoint}, *asked)
    assert first.stdout.strip() in {"NEGATIVE", "POSITIVE", "NEUTRAL"}
    assert "Downloading org/tiny" in first.stderr
    again = flambeau(home, *asked)
    assert again.stdout == first.stdout
    assert "using org/tiny" in again.stderr


def test_predict_asks_a_running_server(served: RunningServer, environment: dict[str, str]) -> None:
    """`--url` and the name of a served model; `--output` chooses the shape."""
    asked = ("predict", "text-classification", "the movie was great", "--url", served.inference)
    assert {entry["label"] for entry in json.loads(flambeau(environment, *asked).stdout)} == {
        "NEGATIVE",
        "POSITIVE",
        "NEUTRAL",
    }
    legacy = flambeau(environment, *asked, "--output", "legacy").stdout.strip()
    assert legacy in {"NEGATIVE", "POSITIVE", "NEUTRAL"}
    unknown = flambeau(environment, "predict", "nope", "text", "--url", served.inference)
    assert unknown.returncode == 1
    assert unknown.stderr == "flambeau: 404: Model not found: nope\n"


def test_pack_register_scale_and_remove(
    models: Models, served: RunningServer, environment: dict[str, str]
) -> None:
    """A folder becomes an archive in the store, and a running server's model."""
    store = served.server.config.model_store
    url = ("--url", served.management)
    packed = flambeau(
        environment, "pack", str(models.folder("token-classification")), "--name", "tagger",
        "--version", "2.0", "--export-path", str(store),
    )  # fmt: skip
    assert packed.returncode == 0, packed.stderr
    assert packed.stdout == f"{store}/tagger.mar\n"
    assert (
        "registered with 1 initial workers"
        in flambeau(environment, "models", "register", "tagger.mar", *url).stdout
    )
    assert (
        "Workers scaled to 2"
        in flambeau(environment, "models", "scale", "tagger", "2", *url).stdout
    )
    described = json.loads(flambeau(environment, "models", "describe", "tagger", *url).stdout)[0]
    assert described["modelVersion"] == "2.0"
    assert described["batchSize"] == 32
    assert [worker["status"] for worker in described["workers"]] == ["READY", "READY"]
    listed = flambeau(environment, "models", "list", *url).stdout
    assert re.search(r"tagger .*2\.0 .*token-classification .*2 of 2", listed)
    assert flambeau(environment, "models", "remove", "tagger", *url).stdout == (
        'Model "tagger" unregistered\n'
    )
    assert flambeau(environment, "models", "describe", "tagger", *url).stderr == (
        "flambeau: Model not found: tagger\n"
    )


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("serve", "nope.mar"), "nope.mar does not exist"),
        (("serve", "owner/nope"), "Model owner/nope cannot be had"),
        (("serve", "EMPTY"), "neither a model folder"),
        (("serve", "ARCHIVE", "--task", "text-generation"), "--task would have no effect"),
        (("serve", "TRUNCATED"), "broken.mar: the zip archive is damaged or incomplete"),
        (("pack", "EMPTY"), "no config.json"),
        (("predict", "FOLDER", "--file", "nope.txt"), "nope.txt cannot be read"),
        (("predict", "FOLDER", "not a question"), "expected an object with 'question'"),
        (
            ("predict", "FOLDER", "x", "--url", "http://127.0.0.1:9", "--max-length", "5"),
            "no effect",
        ),
        (("serve", "FOLDER", "--log-folder", "/proc/nope"), "Log files cannot be written"),
        (("models", "list", "--url", "http://127.0.0.1:9"), "No server answers"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(
    models: Models,
    served: RunningServer,
    environment: dict[str, str],
    tmp_path: Path,
    arguments: tuple[str, ...],
    reason: str,
) -> None:
    """The line names the thing and the reason; there is never a traceback."""
    store = served.server.config.model_store
    assert store is not None
    archive = store / "text-classification.mar"
    truncated = tmp_path / "broken.mar"
    truncated.write_bytes(archive.read_bytes()[:-100])
    (tmp_path / "empty").mkdir()
    named = {
        "EMPTY": str(tmp_path / "empty"),
        "ARCHIVE": str(archive),
        "TRUNCATED": str(truncated),
        "FOLDER": str(models.folder("question-answering")),
    }
    done = flambeau(environment, *(named.get(argument, argument) for argument in arguments))
    assert done.returncode == 1
    assert done.stderr.startswith("flambeau: ")
    assert done.stderr.count("\n") == 1
    assert reason in done.stderr
    assert done.stdout == ""


def test_two_models_of_one_name_do_not_meet_in_the_cache(
    models: Models, environment: dict[str, str], tmp_path: Path
) -> None:
    """A folder is served in place under its own links, whatever other folder has the same name."""
    cache = Path(environment["FLAMBEAU_CACHE"]) / "adopted"
    for task in ("text-classification", "token-classification"):
        folder = tmp_path / task / "same-name"
        folder.parent.mkdir()
        folder.symlink_to(models.folder(task))
        resolve(str(folder), None, Choices(), cache.parent)
    adopted = sorted(cache.glob("same-name-*"))
    assert len(adopted) == 2
    assert {(path / "model.safetensors").resolve().parent.name for path in adopted} == {
        "text-classification",
        "token-classification",
    }


def test_a_port_in_use_is_named(models: Models, environment: dict[str, str]) -> None:
    """Which address, which setting, what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = flambeau(
            environment, "serve", str(models.folder("text-classification")), "--port", port
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("flambeau: Failed to bind to address: http://")
    assert f"127.0.0.1:{port}" in done.stderr


def test_a_model_that_cannot_be_loaded_says_why(
    models: Models, environment: dict[str, str], tmp_path: Path
) -> None:
    """The worker's reason reaches the user, and the server ends."""
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in models.folder("text-classification").iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "model.safetensors").write_bytes(b"no weights at all")
    log = tmp_path / "serve.log"
    with serving(environment, log, str(broken), "--quiet") as process:
        assert process.wait(90) == 1
    last = log.read_text().splitlines()[-1]
    assert last.startswith("flambeau: Failed to start workers for model broken version: 1.0: ")
    assert "model.safetensors" in last


@pytest.mark.parametrize(
    "command", ["serve", "pack", "prepare", "predict", "models", "models register"]
)
def test_every_command_has_help(environment: dict[str, str], command: str) -> None:
    """`--help` says what the command does and describes each option."""
    done = flambeau(environment, *command.split(), "--help")
    assert done.returncode == 0
    assert "Usage: flambeau" in done.stdout
    assert len(done.stdout.splitlines()) > 8
