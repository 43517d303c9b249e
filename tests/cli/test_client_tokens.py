"""`flambeau models` and `flambeau predict` with a server that asks for tokens: real processes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flambeau.cli.tokens import authorization
from flambeau.testing.echo import write_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until

COMMAND = str(Path(sys.executable).with_name("flambeau"))


class Guarded:
    """The server, the folder that it was started in, and commands that talk to it."""

    def __init__(self, server: RunningServer, home: Path) -> None:
        self.server = server
        self.home = home

    @property
    def keys(self) -> dict[str, str]:
        document = json.loads((self.home / "key_file.json").read_text())
        return {scope: entry["key"] for scope, entry in document.items()}

    def run(self, cwd: Path, *arguments: str, token: str = "") -> tuple[int, str, str]:
        environment = os.environ | ({"FLAMBEAU_TOKEN": token} if token else {})
        done = subprocess.run(
            [COMMAND, *arguments],
            cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    root = tmp_path_factory.mktemp("guarded")
    write_model(root / "store", "echo")
    with running_server(
        root / "store",
        root / "cache",
        disable_token_authorization=False,
        key_file=root / "key_file.json",
        load_models=("echo",),
        default_workers_per_model=1,
    ) as server:
        wait_until(lambda: bool(server.server.core.registry.names()))
        yield Guarded(server, root)


def test_models_reads_the_key_file_of_its_folder(guarded: Guarded, tmp_path: Path) -> None:
    """Elsewhere, the error says what to do; the variable and the flag help."""
    ask = ("models", "list", "--json", "--url", guarded.server.management)
    code, out, _ = guarded.run(guarded.home, *ask)
    assert code == 0
    assert json.loads(out)[0]["modelName"] == "echo"
    code, out, error = guarded.run(tmp_path, *ask)
    assert (code, out) == (1, "")
    assert "FLAMBEAU_TOKEN" in error
    assert error.count("\n") == 1
    key = guarded.keys["management"]
    assert guarded.run(tmp_path, *ask, token=key)[0] == 0
    assert guarded.run(tmp_path, *ask, "--token", key)[0] == 0


def test_predict_sends_the_inference_token(guarded: Guarded, tmp_path: Path) -> None:
    """From the key file or the variable; a wrong one is told."""
    ask = ("predict", "echo", "hello", "--url", guarded.server.inference)
    code, out, error = guarded.run(guarded.home, *ask)
    assert code == 0, error
    assert "hello" in out
    assert guarded.run(tmp_path, *ask, token=guarded.keys["inference"])[0] == 0
    code, _, error = guarded.run(tmp_path, *ask, token=guarded.keys["management"])
    assert code == 1
    assert error.startswith("flambeau: 403: Token Authorization failed.")


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("http://127.0.0.1:8081", True),
        ("https://localhost:8444", True),
        ("http://[::1]:8081", True),
        ("http://models.example:8081", False),
        ("http://192.0.2.1:8081", False),
        ("http://localhost.example", False),
        ("http://127.0.0.1@models.example", False),
        ("nonsense", False),
    ],
)
def test_a_local_key_goes_to_a_local_server_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, sent: bool
) -> None:
    """Not to whatever host a command line names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key_file.json").write_text('{"management": {"key": "k"}}')
    expected = {"authorization": "Bearer k"} if sent else {}
    assert authorization(None, url, "management") == expected
    assert authorization("given", url, "management") == {"authorization": "Bearer given"}


def test_named_tokens_are_made_listed_and_revoked(tmp_path: Path) -> None:
    """The token is printed alone, once, for a shell to keep; mistakes are told in one line."""

    def run(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [COMMAND, "token", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    code, key, told = run("create", "ci", "--scope", "inference", "--model", "echo")
    assert (code, len(key)) == (0, 44)
    assert key.strip() not in (tmp_path / "flambeau_tokens.json").read_text() + told
    [row] = json.loads(run("list", "--json")[1])
    assert (row["name"], row["scope"], row["model"]) == ("ci", "inference", "echo")
    code, out, told = run("create", "ci", "--scope", "inference")
    assert (code, out, told.count("\n")) == (1, "", 1)
    assert run("create", "x", "--scope", "metrics", "--expires", "1y")[0] == 1
    assert run("revoke", "ci")[0] == 0
    assert json.loads(run("list", "--json")[1]) == []
