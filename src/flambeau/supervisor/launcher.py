"""How a worker process comes to be: forked from the zygote, or started with its own interpreter."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from typing import Protocol

from flambeau.errors import LoadError

START_SECONDS = 120.0
"""Longest wait for a process: a fork includes the zygote's imports on a slow, busy machine."""


class ProcessHandle:
    """One child, addressed by a pidfd where the system has them: a reused pid is never hit."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = -1
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                self._pidfd = os.pidfd_open(pid)

    def kill(self) -> None:
        """End the process now. Harmless when it is gone already."""
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        """Send a signal. Harmless when the process is gone already."""
        with contextlib.suppress(ProcessLookupError):
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, number)
            elif sys.platform != "linux":
                os.kill(self.pid, number)

    def close(self) -> None:
        """Let go of the descriptor."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


class LaunchedWorker:
    """What is told about one worker: `started` once, then `exited` once.

    `exited` is the exit code, minus a signal's number, or None where nobody can tell: its zygote
    died before it, and the worker may still be alive. The start may take `seconds`.
    """

    def __init__(self, seconds: float = START_SECONDS) -> None:
        loop = asyncio.get_running_loop()
        self.seconds = seconds
        self.started: asyncio.Future[ProcessHandle] = loop.create_future()
        self.exited: asyncio.Future[int | None] = loop.create_future()

    def give_up(self, reason: str | LoadError) -> None:
        """There will be no start, or nobody waits for it; harmless when it has happened.

        A LoadError is the model's fault: it is raised where the start is awaited.
        """
        if not self.started.done():
            error = reason if isinstance(reason, LoadError) else ConnectionError(reason)
            self.started.set_exception(error)
            self.started.exception()  # mark as seen: the caller may have stopped waiting


class Launcher(Protocol):
    """Starts worker processes."""

    def launch(self, sock: socket.socket) -> LaunchedWorker:
        """Ask for a worker that talks over `sock`, which is closed on this side."""
