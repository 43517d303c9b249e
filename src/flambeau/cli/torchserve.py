"""The drop-in `torchserve` command (contract.md section 2)."""

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec

from flambeau import COMPATIBLE_VERSION, __version__
from flambeau.cli import pid_file
from flambeau.cli.early import early_zygote
from flambeau.cli.logs import set_up_logging
from flambeau.cli.restart import configuration, ignored_models
from flambeau.config import ServerConfig, load_config
from flambeau.errors import ConfigError, FlambeauError

_STARTED = b"started"
_INTERRUPTED = 130

_DESCRIPTION = """\
Serve models over HTTP: Flambeau's drop-in for TorchServe's command. The server runs in the
background until `torchserve --stop`; addresses, ports and limits are set in config.properties.
"""
_EPILOG = """\
examples:
  torchserve --start --model-store store --models all
  torchserve --start --model-store store --models bert=bert.mar cats.mar \\
      --ts-config config.properties --foreground
  torchserve --stop

TS_CONFIG_FILE names the configuration file and beats --ts-config; LOG_LOCATION is the folder of
the log files (default: logs). One server runs per TMPDIR, which holds its pid file.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code. Messages go to stdout, as TorchServe's do."""
    arguments = parser().parse_args(argv)
    try:
        if arguments.version:
            print(f"TorchServe Version is {COMPATIBLE_VERSION}")
            _hint(f"This is Flambeau {__version__}, TorchServe's drop-in.")
            return 0
        if arguments.stop:
            return pid_file.stop(quiet=arguments.foreground)
        return _start(arguments)
    except FlambeauError as error:
        print(error)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """The command's flags, under the names that TorchServe's own parser gives them."""
    parser = argparse.ArgumentParser(
        prog="torchserve",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb = parser.add_mutually_exclusive_group()
    verb.add_argument("-v", "--version", action="store_true", help="print the version and exit")
    verb.add_argument("--start", action="store_true", help="start the model server (the default)")
    verb.add_argument(
        "--stop", action="store_true", help="stop the model server, once it has answered"
    )
    parser.add_argument(
        "--ts-config",
        metavar="FILE",
        help="configuration file (default: ./config.properties, if there is one)",
    )
    parser.add_argument(
        "--model-store",
        metavar="FOLDER",
        help="folder that holds the archives; needed here or in the configuration file",
    )
    parser.add_argument(
        "--workflow-store", metavar="FOLDER", help="folder that holds workflows; must exist"
    )
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="MODEL",
        help="models to load: FILE.mar or NAME=FILE.mar of the store, a folder, an allowed URL, "
        "or 'all' for the whole store",
    )
    parser.add_argument(
        "--log-config", metavar="FILE", help="TorchServe's log4j2 file; must exist, has no effect"
    )
    parser.add_argument(
        "--cpp-log-config", metavar="FILE", help="its C++ workers' log file; must exist, no effect"
    )
    parser.add_argument(
        "--foreground",
        action="store_true",
        help="stay attached and log to the console; with --stop: wait silently for the end",
    )
    parser.add_argument(
        "--no-config-snapshots",
        "--ncs",
        action="store_true",
        dest="no_config_snapshots",
        help="neither read nor write snapshots of what is served",
    )
    parser.add_argument(
        "--plugins-path", "--ppath", metavar="FOLDER", help="TorchServe's Java plug-ins; no effect"
    )
    parser.add_argument(
        "--disable-token-auth",
        "--dt",
        action="store_true",
        dest="token_auth",
        help="let clients in without the tokens of key_file.json",
    )
    parser.add_argument(
        "--enable-model-api",
        action="store_true",
        dest="model_mode",
        help="let clients register and unregister models",
    )
    parser.add_argument(
        "--require-signed",
        choices=("off", "warn", "require"),
        help="models without a trusted signature: serve, serve and warn (the default), or refuse",
    )
    parser.add_argument(
        "--trusted-keys",
        metavar="FOLDER",
        help="public keys and authorities' certificates (PEM) of those whose signatures count",
    )
    return parser


def _start(arguments: argparse.Namespace) -> int:
    running = pid_file.running_pid()
    if running is not None:
        print(pid_file.ALREADY_RUNNING)
        _hint(f"It is process {running}.")
        return 1
    config = _config(arguments)
    notes = (*config.notes, *_ignored(arguments))
    if arguments.foreground:
        return _run(config, notes)
    return _start_in_background(config, notes)


def _run(config: ServerConfig, notes: tuple[str, ...], ready: int | None = None) -> int:
    """Serve in this process. `ready` is a pipe on which the launcher waits for `started`."""
    set_up_logging(config.log_location, metrics_folder=config.metrics_location, console="stdout")
    for note in notes:
        logging.getLogger("flambeau.cli").warning("%s", note)

    async def started(_server: object) -> None:
        # One write: the log is written to the same stream by another thread. Whoever reads it, or
        # waits for the start, may have gone: a server does not end for that.
        with contextlib.suppress(OSError):
            os.write(sys.stdout.fileno(), b"Model server started.\n")
        if ready is not None:
            with contextlib.suppress(OSError):
                os.write(ready, _STARTED)
            os.close(ready)

    with pid_file.claimed(), early_zygote(config) as zygote:
        from flambeau.server import serve  # half a second, while the zygote starts

        serve(config, started, zygote=zygote)
    return 0


def _start_in_background(config: ServerConfig, notes: tuple[str, ...]) -> int:
    """Detach a server, and wait until it accepts requests or has said why it cannot.

    TorchServe's launcher returns at once and never tells whether the server came up. As there, the
    server goes on writing its log to the launcher's stdout: a container's log is made of it.
    """
    ready_read, ready_write = os.pipe()
    sys.stdout.flush()  # or the child would write it again
    pid = os.fork()  # this process has one thread and no event loop yet
    if pid == 0:
        os.close(ready_read)
        _detached(config, notes, ready_write)
    os.close(ready_write)
    try:
        with os.fdopen(ready_read, "rb") as ready:
            message = ready.read()
    except KeyboardInterrupt:
        _hint(f"Process {pid} goes on starting in the background; torchserve --stop ends it.")
        return _INTERRUPTED
    if message == _STARTED:
        _hint(f"It is process {pid}; its log files are in {config.log_location}.")
        return 0
    os.waitpid(pid, 0)
    text = message.decode(errors="replace").strip()
    print(text or f"The server ended while it started; see the log files in {config.log_location}")
    return 1


def _detached(config: ServerConfig, notes: tuple[str, ...], ready: int) -> NoReturn:
    """The background server: a session of its own, which no terminal ends."""
    status = 1
    try:
        os.setsid()
        with open(os.devnull, "rb") as null:
            os.dup2(null.fileno(), 0)
        status = _run(config, notes, ready)
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
    for flag, name in (
        ("--log-config", arguments.log_config),
        ("--cpp-log-config", arguments.cpp_log_config),
    ):
        _check(flag, os.path.realpath(name) if name else None, Path.is_file, "file")
    # only what was given: a flag that was not must not undo the file's word
    flags: dict[str, object] = {
        "model_store": Path(arguments.model_store) if arguments.model_store else None,
        "workflow_store": Path(arguments.workflow_store) if arguments.workflow_store else None,
        "load_models": _split(arguments.models) if arguments.models else None,
        "no_config_snapshots": arguments.no_config_snapshots or None,
        "disable_token_authorization": arguments.token_auth or None,
        "enable_model_api": arguments.model_mode or None,
        "require_signed": arguments.require_signed,
        "trusted_keys": Path(arguments.trusted_keys) if arguments.trusted_keys else None,
    }
    file, notes = configuration(arguments)
    config = load_config(file, flags)
    notes += ignored_models(config, arguments.models)
    if config.vmargs:
        print(f"Warning: TorchServe is using non-default JVM parameters: {config.vmargs}")
        _hint("They have no effect: Flambeau has no JVM.")
    if config.model_store is None:
        raise ConfigError("Missing mandatory parameter --model-store")
    _check("--model-store", str(config.model_store), Path.is_dir, "directory")
    _check("--workflow-store", arguments.workflow_store, Path.is_dir, "directory")
    folders = {
        "log_location": (config.log_location or Path("logs")).absolute(),
        "metrics_location": (config.metrics_location or Path("logs")).absolute(),
    }
    return msgspec.structs.replace(config, **folders, notes=(*notes, *config.notes))


def _check(flag: str, value: str | None, test: Callable[[Path], bool], kind: str) -> None:
    if value and not test(Path(value)):
        raise ConfigError(f"{flag} {kind} not found: {value}")


def _split(items: list[str]) -> tuple[str, ...]:
    """Models separated by blanks, commas or both, as TorchServe's launcher takes them."""
    named = (item.strip() for text in items for item in text.split(","))
    return tuple(item for item in named if item)


def _ignored(arguments: argparse.Namespace) -> list[str]:
    names = ("log_config", "cpp_log_config", "plugins_path")
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name)]
    return [f"Accepted and ignored: {', '.join(given)}"] if given else []


def _hint(text: str) -> None:
    """More than TorchServe says: on stderr, because scripts compare stdout."""
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
