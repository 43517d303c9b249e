"""The server's side of the zygote: asks it for workers and hears when they end."""

import asyncio
import contextlib
import logging
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from flambeau.ipc.channel import AsyncChannel, send_with_descriptor
from flambeau.ipc.messages import Exited, Fork, Forked, FromZygote, ZygoteReady
from flambeau.supervisor.launcher import LaunchedWorker, ProcessHandle

logger = logging.getLogger(__name__)

_STOP_SECONDS = 5.0
_RESTART_SECONDS = (0, 1, 2, 5, 10, 30)
"""Waits before a new zygote, by how many have died in a row before they were ready."""


def may_have_gpus() -> bool:
    """Whether the machine shows a device file of a GPU; counting them takes a framework."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()


class Zygote:
    """Starts the zygote process, and a new one when it dies; workers outlive it.

    `ready` is set once the frameworks are imported. Requests for workers may come earlier: they
    wait in the socket.
    """

    def __init__(self, preload: Iterable[str], environment: Mapping[str, str]) -> None:
        self._preload = ",".join(preload)
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._channel: AsyncChannel[FromZygote] | None = None
        self._workers: dict[int, LaunchedWorker] = {}
        self._next = 0
        self._wanted = False
        self._stopping = asyncio.Event()
        self._deaths = 0
        self._restarting: asyncio.Future[None] | None = None
        self.ready = asyncio.Event()
        self.gpus = 0
        self.versions: dict[str, str] = {}

    async def ensure(self) -> None:
        """Start the process unless that was asked for before."""
        if not self._wanted:
            self._wanted = True
            await self.start()

    async def start(self) -> None:
        """Start the process. Returns before its imports are done."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            # -P: a torch.py in the working directory must not be taken for the library
            self._process = subprocess.Popen(  # noqa: S603, ASYNC220  # our own module; takes 1 ms
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "flambeau.worker",
                    str(theirs.fileno()),
                    self._preload,
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=dict(self._environment),
                start_new_session=True,
            )
        self._socket = ours
        self._channel = await AsyncChannel.connect(
            ours.dup(),
            FromZygote,  # type: ignore[arg-type]  # a union is no `type`
            self._on_message,
            self._on_closed,
        )

    def launch(self, sock: socket.socket) -> LaunchedWorker:
        """Ask for a worker that talks over `sock`, which is closed on this side."""
        self._next += 1
        worker = LaunchedWorker()
        self._workers[self._next] = worker
        with sock:
            if self._socket is None:
                self._lose(self._next)
                return worker
            try:
                send_with_descriptor(self._socket, Fork(self._next), sock.fileno())
            except OSError:  # gone, or so busy that its buffer is full: the slot tries again
                self._lose(self._next)
        return worker

    async def stop(self) -> None:
        """Close the control socket, which ends the zygote, and wait for it."""
        self._stopping.set()
        if self._restarting is not None:
            await self._restarting
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._channel is not None:
            self._channel.close()
        process = self._process
        if process is not None:
            if not self.ready.is_set():
                process.kill()  # it would look at its socket only after seconds of imports
            try:
                await asyncio.to_thread(process.wait, _STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _on_message(self, message: FromZygote) -> None:
        match message:
            case ZygoteReady():
                self.gpus = message.gpus
                self.versions = message.versions
                self._deaths = 0
                self.ready.set()
                logger.info(
                    "Zygote %d is ready: %s", message.pid, message.versions or "no frameworks"
                )
            case Forked():
                worker = self._workers.get(message.worker)
                if worker is not None and not worker.started.done():
                    worker.started.set_result(ProcessHandle(message.pid))
            case Exited():
                worker = self._workers.pop(message.worker, None)
                if worker is not None:
                    worker.give_up("the zygote could not fork: no memory, or too many processes")
                    if not worker.exited.done():
                        worker.exited.set_result(message.status)

    def _on_closed(self) -> None:
        if self._stopping.is_set():
            return
        logger.error("The zygote died; starting a new one")
        self.ready.clear()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        for number in list(self._workers):
            self._lose(number)
        self._restarting = asyncio.ensure_future(self._restart())

    async def _restart(self) -> None:
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)
        while not self._stopping.is_set():
            delay = _RESTART_SECONDS[min(self._deaths, len(_RESTART_SECONDS) - 1)]
            self._deaths += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)
                return
            try:
                await self.start()
            except OSError as error:
                logger.error("No zygote could be started: %s", error)  # noqa: TRY400  # says it all
            else:
                return

    def _lose(self, number: int) -> None:
        """Nobody will report this worker's end any more: its own socket is the only sign left."""
        worker = self._workers.pop(number)
        worker.give_up("the zygote died, or was too busy, before it forked")
        if not worker.exited.done():
            worker.exited.set_result(None)
