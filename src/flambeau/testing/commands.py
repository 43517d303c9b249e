"""Runs commands that leave a server behind."""

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_SECONDS = 60


def run_command(
    command: Sequence[str], cwd: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, whatever goes on behind it, and return what was printed so far.

    A background server keeps the streams of the command that started it. Were they pipes, we would
    wait for its end.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        done = subprocess.run(  # noqa: S603  # a test's own command
            command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=output,
            stderr=errors, timeout=_SECONDS, check=False,
        )  # fmt: skip
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(command, done.returncode, output.read(), errors.read())
