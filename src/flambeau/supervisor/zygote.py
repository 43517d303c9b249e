"""The server's side of the zygote: asks it for workers and hears when they end."""

import asyncio
import contextlib
import logging
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from flambeau.ipc.messages import Exited, Forked, FromZygote, ZygoteReady
from flambeau.supervisor.forks import Forks
from flambeau.supervisor.launcher import LaunchedWorker
from flambeau.supervisor.lifeline import Lifeline

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
        self._early: socket.socket | None = None
        self._lifeline: Lifeline | None = None
        self._forks = Forks("zygote")
        self._wanted = False
        self._stopping = asyncio.Event()
        self._deaths = 0
        self._restarting: asyncio.Future[None] | None = None
        self.ready = asyncio.Event()
        self.gpus = 0
        self.versions: dict[str, str] = {}

    def start_early(self) -> None:
        """Start the process before there is an event loop; `start` follows, or `abandon`."""
        self._early = self._start_process()

    def abandon(self) -> None:
        """End a process that was started early, and that nobody will need."""
        early, self._early = self._early, None
        if early is not None and self._process is not None:
            early.close()
            self._process.kill()
            self._process.wait()
            self._cut_lifeline()

    async def ensure(self) -> None:
        """Start the process unless that was asked for before."""
        if not self._wanted:
            self._wanted = True
            await self.start()

    async def start(self) -> None:
        """Start the process, unless it was early. Returns before its imports are done."""
        ours, self._early = self._early or self._start_process(), None
        await self._forks.connect(
            ours,
            FromZygote,  # type: ignore[arg-type]  # a union is no `type`
            self._on_message,
            self._on_closed,
        )

    def _start_process(self) -> socket.socket:
        """Start the process; returns our end of its control socket."""
        self._cut_lifeline()  # of a zygote that is dead
        lifeline = self._lifeline = Lifeline()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            # -P: a torch.py in the working directory must not be taken for the library
            self._process = subprocess.Popen(  # noqa: S603  # our own module; takes 1 ms
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "flambeau.worker",
                    str(theirs.fileno()),
                    self._preload,
                    str(lifeline.theirs),
                ],
                pass_fds=[theirs.fileno(), lifeline.theirs],
                stdin=subprocess.DEVNULL,
                env=dict(self._environment),
                start_new_session=True,
            )
        lifeline.handed_over()
        return ours

    def launch(
        self, sock: socket.socket, worker: LaunchedWorker | None = None, *, template: bool = False
    ) -> LaunchedWorker:
        """Ask for a worker that talks over `sock`, which is closed on this side.

        Where the caller has promised a `worker` already, it is told; `template`: one that forks.
        """
        worker = worker or LaunchedWorker()
        self._forks.launch(sock, worker, template=template)
        return worker

    async def stop(self) -> None:
        """Close the control socket, which ends the zygote, and wait for it."""
        self._stopping.set()
        if self._restarting is not None:
            await self._restarting
        self._forks.close()
        process = self._process
        if process is not None:
            if not self.ready.is_set():
                process.kill()  # it would look at its socket only after seconds of imports
            try:
                await asyncio.to_thread(process.wait, _STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._cut_lifeline()

    def _cut_lifeline(self) -> None:
        if self._lifeline is not None:
            self._lifeline.close()

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
            case Forked() | Exited():
                self._forks.heard(message)

    def _on_closed(self) -> None:
        if self._stopping.is_set():
            return
        logger.error("The zygote died; starting a new one")
        self.ready.clear()
        self._forks.lose_all()
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
