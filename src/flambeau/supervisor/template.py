"""The server's side of a model's template: one process that loads, and forks the workers."""

import asyncio
import logging
import socket
from collections.abc import Coroutine

import msgspec

from flambeau.errors import ErrorKind, LoadError
from flambeau.ipc.channel import send_with_descriptor
from flambeau.ipc.messages import (
    DUMP_SIGNAL,
    Exited,
    Forked,
    FromTemplate,
    Load,
    LoadFailed,
    Log,
    TemplateReady,
)
from flambeau.supervisor.forks import Forks
from flambeau.supervisor.launcher import START_SECONDS, LaunchedWorker, ProcessHandle
from flambeau.supervisor.lifeline import Lifeline
from flambeau.supervisor.model_log import write_model_log
from flambeau.supervisor.process import describe_exit
from flambeau.supervisor.zygote import Zygote

logger = logging.getLogger(__name__)

_STACKS_SECONDS = 0.3
"""How long a template whose load takes too long has to write its stacks down."""

_FORK_SECONDS = 30.0
"""Longest wait for a fork of a template that is ready; one that is slower is replaced."""


class Template:
    """Starts a model's workers: forks of one process that has loaded it, or else of the zygote.

    The process is started when a worker is wanted and there is none; its workers outlive it.
    Whether the model can be shared so, it finds out itself, once.
    """

    def __init__(self, zygote: Zygote, load: Load, seconds: float) -> None:
        self._zygote = zygote
        self._load = msgspec.structs.replace(load, threads=1)
        self._seconds = seconds
        self._unshared = False
        self._process: _TemplateProcess | None = None
        self._waiting: set[LaunchedWorker] = set()
        self._tasks: set[asyncio.Future[None]] = set()

    @property
    def pid(self) -> int:
        """The process id, -1 while there is none."""
        return self._process.pid if self._process else -1

    def launch(self, sock: socket.socket) -> LaunchedWorker:
        """Ask for a worker that talks over `sock`, which is closed on this side."""
        if self._unshared:
            return self._zygote.launch(sock)
        worker = LaunchedWorker(2 * START_SECONDS + self._seconds)
        self._waiting.add(worker)
        worker.started.add_done_callback(lambda _: self._on_settled(worker))
        self._own(self._launch(sock, worker))
        return worker

    def kill(self) -> None:
        """End the process now; workers stay."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()

    async def end(self) -> None:
        """End the process and wait until it is gone."""
        self.kill()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _launch(self, sock: socket.socket, worker: LaunchedWorker) -> None:
        with sock:
            try:
                process = await self._ready()
            except LoadError as error:
                worker.give_up(error)
                return
            if worker.started.done():
                return  # nobody waits any more
            if process is None:
                self._zygote.launch(sock, worker)
                return
            process.launch(sock, worker)
        await asyncio.wait([worker.started], timeout=_FORK_SECONDS)
        if not worker.started.done():
            logger.error("The template of %s does not answer; it is replaced", self._load.name)
            process.kill()

    async def _ready(self) -> "_TemplateProcess | None":
        """The process, once it has loaded; None where the zygote has to fork. Raises LoadError."""
        if self._process is None or self._process.is_closed:
            self._process = _TemplateProcess(self._load)
            self._own(self._process.live(self._zygote, self._seconds))
        process = self._process
        if await asyncio.shield(process.loaded):
            return process
        self._unshared = True
        return None

    def _on_settled(self, worker: LaunchedWorker) -> None:
        """A load for which nobody waits any more is ended."""
        self._waiting.discard(worker)
        if not self._waiting and self._process is not None and not self._process.loaded.done():
            self.kill()

    def _own(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _TemplateProcess:
    """One template from its start to its end.

    `loaded` says whether its workers can be forked from it, or raises LoadError.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self._name = f"T-{load.name}_{load.version}"
        self._forks = Forks("template")
        self._launched: LaunchedWorker | None = None
        self._handle: ProcessHandle | None = None
        self._closed = asyncio.Event()
        self._killed = False
        self._lifeline = Lifeline()
        self.loaded: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int:
        """The process id, -1 before the start."""
        return self._handle.pid if self._handle else -1

    @property
    def is_closed(self) -> bool:
        """Whether it forks no more."""
        return self._killed or self._closed.is_set()

    def launch(self, sock: socket.socket, worker: LaunchedWorker) -> None:
        """Ask for a worker that talks over `sock`, which is closed on this side."""
        self._forks.launch(sock, worker)

    def kill(self) -> None:
        """End it now; one that has not started yet ends by its closed socket."""
        self._killed = True
        if self._handle is not None:
            self._handle.kill()
        elif self._launched is not None:
            self._launched.give_up("the template was told to end")

    async def live(self, zygote: Zygote, seconds: float) -> None:
        """Start it, let it load within `seconds`, and wait for its end."""
        try:
            self._launched, handle = await self._start(zygote)
        except OSError as error:
            text = f"no worker process could be started: {error!r}"
            self._fail(LoadError(text, ErrorKind.WORKER_DIED))  # not the model's fault
            self._forks.close()
            self._lifeline.close()
            return
        timer = asyncio.get_running_loop().call_later(seconds, self._expire, seconds)
        self.loaded.add_done_callback(lambda _: timer.cancel())
        await self._closed.wait()
        handle.kill()  # a closed socket with a living process behind it: nothing to talk to
        told = describe_exit(await self._launched.exited)
        handle.close()
        for line in self._lifeline.last_words():
            write_model_log(self._name, Log(logging.ERROR, "faulthandler", line))
        self._lifeline.close()
        self._fail(LoadError(f"the worker process ended while loading the model: {told}"))

    async def _start(self, zygote: Zygote) -> tuple[LaunchedWorker, ProcessHandle]:
        """Start the process and tell it what to load. Raises `OSError` when there is none."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        send_with_descriptor(ours, self._load, self._lifeline.theirs)
        self._lifeline.handed_over()
        launched = self._launched = zygote.launch(theirs, template=True)
        await self._forks.connect(
            ours,
            FromTemplate,  # type: ignore[arg-type]  # a union is no `type`
            self._on_message,
            self._on_closed,
        )
        if self._killed:
            launched.give_up("the template was told to end")
        self._handle = await asyncio.wait_for(launched.started, launched.seconds)
        return launched, self._handle

    def _on_message(self, message: FromTemplate) -> None:
        match message:
            case Forked() | Exited():
                self._forks.heard(message)
            case Log():
                write_model_log(self._name, message)
            case TemplateReady():
                if not self.loaded.done():
                    self.loaded.set_result(message.shared)
            case LoadFailed():
                self._fail(LoadError(message.message, message.kind))

    def _on_closed(self) -> None:
        forks = self.loaded.done() and not self.loaded.exception() and self.loaded.result()
        if forks and not self._killed:
            logger.error("%s died; the next worker gets a new one", self._name)
        self._forks.lose_all()
        self._closed.set()

    def _expire(self, seconds: float) -> None:
        text = f"loading took longer than {seconds:g} s (startupTimeout / startup_timeout)"
        self._fail(LoadError(text))
        if self._handle is not None:  # its stacks are read once it is dead
            self._handle.send_signal(DUMP_SIGNAL)
        asyncio.get_running_loop().call_later(_STACKS_SECONDS, self.kill)

    def _fail(self, error: LoadError) -> None:
        if not self.loaded.done():
            self.loaded.set_exception(error)
            self.loaded.exception()  # mark as seen: nobody may wait any more
