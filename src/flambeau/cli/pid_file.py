"""The pid file: which server runs in this temporary folder, and how it is stopped (section 2.3)."""

import contextlib
import os
import select
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

from flambeau.errors import ConfigError

ALREADY_RUNNING = "TorchServe is already running, please use torchserve --stop to stop TorchServe."
STOP_SECONDS = 60

_INTERPRETERS = ("python", "pypy", "java")
_PROGRAMS = {
    "torchserve",
    "torchserve.py",
    "flambeau.cli.torchserve",
    "ts.model_server",
    "model_server.py",
    "org.pytorch.serve.ModelServer",
}


def running_pid() -> int | None:
    """The running server's pid, or None. A file of a process that is gone is removed, and told.

    A process that is no server (its number was given away again) is let be, and so is the file.
    """
    file = _pid_file()
    try:
        pid = int(file.read_text())
    except (OSError, ValueError):
        return None
    command = _command(pid)
    if command is None:
        print("Removing orphan pid file.")
        file.unlink(missing_ok=True)
        return None
    return pid if _is_server(command) else None


@contextlib.contextmanager
def claimed() -> Iterator[None]:
    """This process is the server that the file names, until the block ends.

    Raises `ConfigError` where another server was quicker, or the file cannot be written.
    """
    try:
        _claim()
    except OSError as error:
        raise ConfigError(
            f"The pid file {_pid_file()} cannot be written: {error.strerror or error}."
            " Name another folder for temporary files with TMPDIR."
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            if int(_pid_file().read_text()) == os.getpid():
                _pid_file().unlink()


def _claim() -> None:
    """Write the file unless a server's is there: of two starts at one moment only one wins."""
    file = _pid_file()
    descriptor, draft = tempfile.mkstemp(prefix=f"{file.name}-", dir=file.parent)
    try:
        with os.fdopen(descriptor, "w") as written:
            os.fchmod(descriptor, 0o644)
            written.write(str(os.getpid()))
        try:
            os.link(draft, file)
        except OSError as error:  # it is there, or the file system has no links
            if running_pid() is not None:
                raise ConfigError(ALREADY_RUNNING) from error
            os.replace(draft, file)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(draft)


def stop(*, quiet: bool) -> int:
    """Stop the running server and wait for its end; returns the exit code.

    TorchServe says "has stopped" before that is so; with `--foreground` it waits and says nothing.
    A server that has not ended after `STOP_SECONDS` is let be (it answers what it accepted).
    """
    pid = running_pid()
    if pid is None:
        print("TorchServe is not currently running.")
        return 0
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    if not _wait_gone(pid, STOP_SECONDS):
        print("Stopping TorchServe took too long.")
        return 1
    with contextlib.suppress(OSError):
        _pid_file().unlink()
    if not quiet:
        print("TorchServe has stopped.")
    return 0


def _wait_gone(pid: int, seconds: float) -> bool:
    """Wait for another process's end, without polling."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    with contextlib.closing(os.fdopen(handle, "rb")):
        ready, _, _ = select.select([handle], [], [], seconds)
    return bool(ready)


def _command(pid: int) -> list[str] | None:
    """A process's command line; None if there is no such process, or it has ended already."""
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    except OSError:
        return None
    return text.split("\0") if text else None


def _is_server(command: list[str]) -> bool:
    """Whether it is a server, ours or TorchServe's, and no editor of a file of that name."""
    program, *arguments = (Path(part).name for part in command)
    return program.startswith(_INTERPRETERS) and not _PROGRAMS.isdisjoint(arguments)


def _pid_file() -> Path:
    return Path(tempfile.gettempdir()) / ".model_server.pid"
