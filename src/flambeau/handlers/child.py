"""The child processes of commands that need a framework: one request as JSON, lines on stderr."""

import argparse
import logging
import sys
from collections.abc import Callable

from flambeau.errors import FlambeauError


def read_request(command: str, argv: list[str] | None) -> str:
    """The JSON that the parent sends to `python -m flambeau.handlers.<command>`."""
    parser = argparse.ArgumentParser(prog=f"python -m flambeau.handlers.{command}")
    parser.add_argument("--request-json", required=True, metavar="JSON", help="what is asked for")
    text: str = parser.parse_args(argv).request_json
    return text


def run_quietly(work: Callable[[], object]) -> int:
    """Do the work; returns the exit code: an error is one line on stderr and 1.

    The libraries' advice is for whoever calls them, and left out.
    """
    logging.getLogger().setLevel(logging.ERROR)
    try:
        work()
    except FlambeauError as error:
        sys.stderr.write(f"flambeau: {' '.join(str(error).split())}\n")
        return 1
    return 0


def say(line: str) -> None:
    """Tell the user how far the work is."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
