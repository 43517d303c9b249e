"""The drop-in `torchserve` command (contract.md section 2)."""

import argparse
import contextlib
import logging
import os
import select
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec

from flambeau import __version__
from flambeau.cli.logs import set_up_logging
from flambeau.config import ServerConfig, config_file, load_config
from flambeau.errors import ConfigError, FlambeauError
from flambeau.server import Server, serve

COMPATIBLE_VERSION = "0.12.0"
STOP_SECONDS = 60
_STARTED = b"started"
_INTERPRETERS = ("python", "pypy", "java")
_PROGRAMS = {
    "torchserve",
    "torchserve.py",
    "flambeau.cli.torchserve",
    "org.pytorch.serve.ModelServer",
}


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code. Messages go to stdout, as TorchServe's do."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.version:
            print(f"TorchServe Version is {COMPATIBLE_VERSION} (Flambeau {__version__})")
            return 0
        if arguments.stop:
            return _stop(wait=arguments.foreground)
        return _start(arguments)
    except FlambeauError as error:
        print(error)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="torchserve", description="Serve models. Flambeau's drop-in for TorchServe's command."
    )
    verb = parser.add_mutually_exclusive_group()
    verb.add_argument("-v", "--version", action="store_true", help="print the version and exit")
    verb.add_argument("--start", action="store_true", help="start the model server")
    verb.add_argument("--stop", action="store_true", help="stop the model server")
    parser.add_argument(
        "--ts-config", metavar="FILE", help="configuration file (config.properties)"
    )
    parser.add_argument("--model-store", metavar="DIR", help="folder that holds the archives")
    parser.add_argument("--workflow-store", metavar="DIR", help="folder that holds workflows")
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="MODEL",
        help="models to load: FILE, NAME=FILE, a folder, or 'all'",
    )
    parser.add_argument("--log-config", metavar="FILE", help="log4j2 file; accepted and ignored")
    parser.add_argument("--cpp-log-config", metavar="FILE", help="accepted and ignored")
    parser.add_argument(
        "--foreground", action="store_true", help="stay attached; with --stop, wait for the end"
    )
    parser.add_argument(
        "--no-config-snapshots", "--ncs", action="store_true", dest="no_config_snapshots",
        help="neither read nor write snapshots",
    )  # fmt: skip
    parser.add_argument("--plugins-path", "--ppath", metavar="DIR", help="accepted and ignored")
    parser.add_argument(
        "--disable-token-auth", "--dt", action="store_true", help="turn token authorization off"
    )
    parser.add_argument(
        "--enable-model-api",
        action="store_true",
        help="allow clients to register and unregister models",
    )
    return parser


def _start(arguments: argparse.Namespace) -> int:
    config = _config(arguments)
    running = _running_pid()
    if running is not None:
        print(
            "TorchServe is already running, please use torchserve --stop to stop TorchServe."
            f" (pid {running})"
        )
        return 1
    notes = (*config.notes, *_ignored(arguments))
    if arguments.foreground:
        return _run(config, notes, console=True)
    return _start_in_background(config, notes)


def _run(
    config: ServerConfig, notes: tuple[str, ...], *, console: bool, ready: int | None = None
) -> int:
    """Serve in this process. `ready` is a pipe on which the launcher waits for `started`."""
    set_up_logging(
        config.log_location,
        metrics_folder=config.metrics_location,
        console="stdout" if console else None,
    )
    for note in notes:
        logging.getLogger("flambeau.cli").warning("%s", note)
    _pid_file().write_text(str(os.getpid()))

    async def started(_server: Server) -> None:
        print("Model server started.", flush=True)  # stdout may be a supervisor's pipe
        if ready is not None:
            os.write(ready, _STARTED)
            os.close(ready)

    try:
        serve(config, started)
    finally:
        with contextlib.suppress(OSError, ValueError):
            if int(_pid_file().read_text()) == os.getpid():
                _pid_file().unlink()
    return 0


def _start_in_background(config: ServerConfig, notes: tuple[str, ...]) -> int:
    """Detach a server, and wait until it accepts requests or has said why it cannot.

    TorchServe's launcher returns at once and never tells whether the server came up.
    """
    ready_read, ready_write = os.pipe()
    pid = os.fork()  # this process has one thread and no event loop yet
    if pid == 0:
        os.close(ready_read)
        _detached(config, notes, ready_write)
    os.close(ready_write)
    with os.fdopen(ready_read, "rb") as ready:
        message = ready.read()
    if message == _STARTED:
        print(f"Model server started. (pid {pid}, log files in {config.log_location})")
        return 0
    os.waitpid(pid, 0)
    text = message.decode(errors="replace").strip()
    print(text or f"The server ended while it started; see the log files in {config.log_location}")
    return 1


def _detached(config: ServerConfig, notes: tuple[str, ...], ready: int) -> NoReturn:
    """The background server: a session of its own, no terminal, the log files only."""
    status = 1
    try:
        os.setsid()
        with open(os.devnull, "r+b") as null:
            for descriptor in (0, 1, 2):
                os.dup2(null.fileno(), descriptor)
        status = _run(config, notes, console=False, ready=ready)
    except FlambeauError as error:
        with contextlib.suppress(OSError):
            os.write(ready, str(error).encode())
    except Exception:
        logging.getLogger("flambeau.cli").exception("The server ended unexpectedly")
    finally:
        logging.shutdown()  # writes what the log files still lack
        os._exit(status)


def _config(arguments: argparse.Namespace) -> ServerConfig:
    """Read the configuration and make TorchServe's checks, with its messages (section 2.2)."""
    _check("--log-config", arguments.log_config, Path.is_file, "file")
    _check("--cpp-log-config", arguments.cpp_log_config, Path.is_file, "file")
    flags: dict[str, object] = {
        "model_store": Path(arguments.model_store) if arguments.model_store else None,
        "load_models": _split(arguments.models) if arguments.models else None,
        "disable_token_authorization": arguments.disable_token_auth or None,
        "enable_model_api": arguments.enable_model_api or None,
    }
    config = load_config(config_file(arguments.ts_config), flags)
    if config.model_store is None:
        raise ConfigError("Missing mandatory parameter --model-store")
    _check("--model-store", str(config.model_store), Path.is_dir, "directory")
    _check("--workflow-store", arguments.workflow_store, Path.is_dir, "directory")
    folders = {
        "log_location": (config.log_location or Path("logs")).absolute(),
        "metrics_location": (config.metrics_location or Path("logs")).absolute(),
    }
    return msgspec.structs.replace(config, **folders)


def _check(flag: str, value: str | None, test: Callable[[Path], bool], kind: str) -> None:
    if value and not test(Path(value)):
        raise ConfigError(f"{flag} {kind} not found: {value}")


def _split(items: list[str]) -> tuple[str, ...]:
    """Models separated by blanks, commas or both, as TorchServe's launcher takes them."""
    named = (item.strip() for text in items for item in text.split(","))
    return tuple(item for item in named if item)


def _ignored(arguments: argparse.Namespace) -> list[str]:
    names = ("log_config", "cpp_log_config", "plugins_path", "workflow_store")
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name)]
    return [f"Accepted and ignored: {', '.join(given)}"] if given else []


def _stop(*, wait: bool) -> int:
    pid = _running_pid()
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
    if not wait:
        print("TorchServe has stopped.")
    return 0


def _wait_gone(pid: int, seconds: float) -> bool:
    """Wait for another process's end: without polling where the system has pidfds."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    with contextlib.closing(os.fdopen(handle, "rb")):
        ready, _, _ = select.select([handle], [], [], seconds)
    return bool(ready)


def _running_pid() -> int | None:
    """The running server's pid; a file that no server of this name stands behind is removed."""
    file = _pid_file()
    try:
        pid = int(file.read_text())
    except (OSError, ValueError):
        return None
    if _is_server(pid):
        return pid
    print("Removing orphan pid file.")
    file.unlink(missing_ok=True)
    return None


def _is_server(pid: int) -> bool:
    """Whether a process is a server, ours or TorchServe's, and no editor of a file of that name."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return False
    program, *arguments = (Path(part).name for part in command)
    return program.startswith(_INTERPRETERS) and not _PROGRAMS.isdisjoint(arguments)


def _pid_file() -> Path:
    return Path(tempfile.gettempdir()) / ".model_server.pid"


if __name__ == "__main__":
    sys.exit(main())
