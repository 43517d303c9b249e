"""Runs work that needs a model framework in a child process that writes to our terminal."""

import contextlib
import signal
import subprocess
import sys

import typer


def run_child(module: str, request: str, purpose: str) -> int:
    """Run `python -m module --request-json request`; returns the exit code.

    `purpose` ends "The process that …". The child is not in the terminal's foreground group: Ctrl-C
    reaches this process alone, which tells the child, so that one of them cleans up and says so,
    and only once.
    """
    # Who ends this process, ends the child.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # -P: a transformers.py or torch.py in the working directory must not be taken for the library.
    command = [sys.executable, "-P", "-m", module, "--request-json", request]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603 - our own program
    try:
        code = child.wait()
    except KeyboardInterrupt:
        child.terminate()
        # A second Ctrl-C must not leave the child behind.
        with contextlib.suppress(KeyboardInterrupt):
            return _interrupted(child.wait())
        child.kill()
        return _interrupted(child.wait())
    if code < 0:
        name = signal.Signals(-code).name
        advice = " The machine may be out of memory." if -code == signal.SIGKILL else ""
        typer.echo(f"flambeau: The process that {purpose} ended by {name}.{advice}", err=True)
        return 1
    return code


def _interrupted(code: int) -> int:
    if code == 0:
        return 0  # it was complete already
    if code < 0:
        # It had not begun, and has said nothing.
        typer.echo("flambeau: interrupted; nothing was written", err=True)
    return 130
