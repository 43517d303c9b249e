"""Sends what a handler logs and prints to the server, at its own level and line by line."""

import faulthandler
import functools
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from typing_extensions import override

from flambeau.ipc.channel import BlockingChannel
from flambeau.ipc.messages import Log

MAX_LINE = 16 * 1024
"""Characters of one log line; the rest of a longer line is cut off."""

_LAST_LINES_SECONDS = 1.0
"""How long the end of the output may take; a child that still holds it is not waited for."""


class ChannelHandler(logging.Handler):
    """A logging handler whose records travel to the server."""

    def __init__(self, channel: BlockingChannel[Any]) -> None:
        super().__init__(logging.INFO)
        self._channel = channel

    @override
    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
            self._channel.send(Log(record.levelno, record.name, text[:MAX_LINE]))
        except OSError:
            pass  # the server is gone; the reading thread ends this process
        except Exception:  # noqa: BLE001  # a bad log call must not fail a request
            self.handleError(record)


def capture_output(channel: BlockingChannel[Any]) -> Callable[[], None]:
    """Route logging, stdout and stderr of this process, native code included, to the server.

    What is returned, when called, ends that for stdout and stderr, and the threads that do it.
    """
    terminal = os.dup(2)
    faulthandler.enable(file=terminal, all_threads=False)
    threads = []
    for stream, descriptor, level in (("stdout", 1, logging.INFO), ("stderr", 2, logging.WARNING)):
        read_end, write_end = os.pipe()
        os.dup2(write_end, descriptor)
        os.close(write_end)
        forwarding = threading.Thread(
            target=_forward, args=(read_end, stream, level, channel), name=stream, daemon=True
        )
        forwarding.start()
        threads.append(forwarding)
    sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)
    root = logging.getLogger()
    root.handlers[:] = [ChannelHandler(channel)]
    root.setLevel(logging.INFO)
    return functools.partial(_release_output, terminal, threads)


def _release_output(terminal: int, threads: list[threading.Thread]) -> None:
    """Close the pipes by giving stdout and stderr back to the terminal; wait for what is in them."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(terminal, 1)
    os.dup2(terminal, 2)
    faulthandler.enable(file=2, all_threads=False)
    os.close(terminal)
    for thread in threads:
        thread.join(_LAST_LINES_SECONDS)


def _forward(read_end: int, stream: str, level: int, channel: BlockingChannel[Any]) -> None:
    with os.fdopen(read_end, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if text := line.rstrip("\n"):
                try:
                    channel.send(Log(level, stream, text[:MAX_LINE]))
                except OSError:
                    return
