"""Side by side with TorchServe's own command: what needs no server prints and ends the same.

Set FLAMBEAU_TORCHSERVE_VENV to a virtual environment with TorchServe 0.12.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

VENV = os.environ.get("FLAMBEAU_TORCHSERVE_VENV", "")

pytestmark = [
    pytest.mark.peer,
    pytest.mark.slow,
    pytest.mark.skipif(not VENV, reason="FLAMBEAU_TORCHSERVE_VENV names no environment"),
]

COMMANDS = [
    "--version",
    "--stop",
    "",
    "--model-store store --workflow-store nope",
    "--model-store store --ts-config nope",
    "--ts-config store.properties",
    "--ts-config vm.properties --model-store nope",
    "--model-store store --log-config nope",
    "--model-store store --cpp-log-config nope",
    "--start --stop",
    "--bogus",
    "TEMP=nope --model-store store",
    "TS_CONFIG_FILE=nope --model-store store --ts-config vm.properties",
    "pid=4194304 --stop",
    "pid=self --stop",
    "pid=self --start",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_same_output_and_exit_code(tmp_path: Path, command: str) -> None:
    """Stdout, the exit code, and what becomes of the pid file."""
    (tmp_path / "store").mkdir()
    (tmp_path / "vm.properties").write_text("vmargs=-Xmx1g\n")
    (tmp_path / "store.properties").write_text("model_store=nope\n")
    settings = dict(part.split("=") for part in command.split() if part[0] != "-" and "=" in part)
    arguments = [part for part in command.split() if part.partition("=")[0] not in settings]
    pid = settings.pop("pid", None)
    outcomes = []
    programs = ([f"{VENV}/bin/torchserve"], [sys.executable, "-m", "flambeau.cli.torchserve"])
    for number, program in enumerate(programs):
        temporary = tmp_path / f"tmp{number}"
        temporary.mkdir()
        pid_file = temporary / ".model_server.pid"
        if pid:
            pid_file.write_text(str(os.getpid()) if pid == "self" else pid)
        done = subprocess.run(
            [*program, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=os.environ | settings | {"TMPDIR": str(temporary)}, text=True, check=False,
            timeout=60,
        )  # fmt: skip
        outcomes.append((done.returncode, done.stdout, pid_file.exists()))
    assert outcomes[1] == outcomes[0]
