"""The package `ts` in a user's own process: imports, `ts.launcher` and its kin (section 2.8)."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from flambeau.testing.echo import write_model

ENVIRONMENT_KEYS = ("inference_address", "management_address", "metrics_address")


def python(code: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, with this environment beside ours."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=os.environ | environment,
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_one_module_under_both_names(tmp_path: Path) -> None:
    """`ts` is importable without a worker, with the very classes that workers use.

    Nothing of torch is imported until a handler's base class is; a part of TorchServe that is not
    offered fails with an error that says so.
    """
    code = """
import sys
import ts
import ts.arg_parser, ts.context, ts.launcher, ts.llm_launcher, ts.metrics.dimension
import ts.model_server, ts.service, ts.utils.util
from ts.version import __version__
assert ts.__version__ == __version__ == "0.12.0"
assert "torch" not in sys.modules, "torch"
from ts.torch_handler.base_handler import BaseHandler
import flambeau.handlers.ts.torch_handler.base_handler as home
assert BaseHandler is home.BaseHandler
from flambeau.handlers.ts.context import Context
assert isinstance(Context("m", "", {}, 1, None, False, "1.0"), ts.context.Context)
try:
    import ts.no_such_part
except ImportError as error:
    print(error)
flags = ts.arg_parser.ArgParser.ts_parser().parse_args(["--dt", "--models", "a", "b", "--start"])
assert flags.token_auth and flags.models == ["a", "b"] and not flags.model_mode
"""
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("No module named 'ts.no_such_part'")


def test_the_llm_launcher_names_what_to_use(tmp_path: Path) -> None:
    """It ends with status 1 and a command that serves the model."""
    command = [sys.executable, "-m", "ts.llm_launcher", "--model_id", "owner/llm", "--dtype", "x"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "flambeau serve owner/llm --name model" in done.stderr


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a store, and a configuration with free ports."""
    (tmp_path / "tmp").mkdir()
    for name in ("echo", "other"):
        write_model(tmp_path / "store", name)
    with socket.socket() as one, socket.socket() as two, socket.socket() as three:
        lines = ["preload=\n"]
        for key, sock in zip(ENVIRONMENT_KEYS, (one, two, three), strict=True):
            sock.bind(("127.0.0.1", 0))
            lines.append(f"{key}=http://127.0.0.1:{sock.getsockname()[1]}\n")
    (tmp_path / "config.properties").write_text("".join(lines))
    return tmp_path


def run_here(code: str, place: Path) -> subprocess.CompletedProcess[str]:
    return python(
        code, place, TMPDIR=str(place / "tmp"), FLAMBEAU_CACHE=str(place / "cache"),
        LOG_LOCATION=str(place / "logs"),
    )  # fmt: skip


def test_a_server_is_started_from_a_program(place: Path) -> None:
    """`start` returns once requests are accepted, and hands over further lines; `stop` ends it.

    A second `start` replaces the server. `register_model` waits until the model is ready.
    """
    management = (place / "config.properties").read_text().splitlines()[2].partition("=")[2]
    code = f"""
from ts.launcher import register_model, register_model_with_params, start, stop
arguments = dict(model_store="store", snapshot_file="config.properties", no_config_snapshots=True,
                 disable_token=True, enable_model_api=True)
start(models=["echo"], **arguments)
lines = start(models="first=echo", **arguments)
answer = register_model("third", "other", management_address="{management}")
assert answer.ok and answer.status_code == 200, answer.text
answer = register_model_with_params((("url", "absent"),), management_address="{management}")
assert not answer.ok and answer.status_code == 404, answer.text
import httpx
names = [model["modelName"] for model in httpx.get("{management}/models").json()["models"]]
print("names", names)
stop()
said = []
while (line := lines.get(timeout=60)) is not None:
    said.append(line)
assert any("Model server stopped." in line for line in said), said
"""
    done = run_here(code, place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "names ['first', 'third']" in done.stdout
    assert done.stdout.count("Model server started.") >= 2
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{management}/models")


def test_a_server_that_does_not_start(place: Path) -> None:
    """The reason is the exception's text; TorchServe's launcher returned as if nothing was wrong."""
    code = """
from ts.launcher import start
try:
    start(model_store="absent")
except RuntimeError as error:
    print(error)
"""
    done = run_here(code, place)
    assert "The server did not start: --model-store directory not found: absent" in done.stdout
