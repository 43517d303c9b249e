"""One worker process: start, load, run batches (one at a time, or many if asynchronous), end.

A `WorkerProcess` lives from its start to its exit and is never restarted; `flambeau.supervisor.pool`
replaces it. It calls its `Events` from the event loop, in the order in which things happened.
"""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from flambeau.errors import ErrorKind, LoadError, PredictionError
from flambeau.ipc.channel import AsyncChannel, send_with_descriptor
from flambeau.ipc.messages import (
    DUMP_SIGNAL,
    OUT_OF_MEMORY_EXIT,
    Cancel,
    Done,
    Failed,
    FromWorker,
    Load,
    Loaded,
    LoadFailed,
    Log,
    Measured,
    Output,
    Ping,
    Pong,
    Run,
    Stop,
)
from flambeau.supervisor.launcher import LaunchedWorker, Launcher, ProcessHandle
from flambeau.supervisor.lifeline import Lifeline, process_state
from flambeau.supervisor.worker import Events
from flambeau.types import InferenceRequest

_CANCEL_SECONDS = 5.0
"""How long an asynchronous worker may take to cancel a batch before its process is ended."""

_LAST_WORDS_SECONDS = 0.5
"""How long a dead worker's socket may still be open: what it has sent is read in that time."""

_STACKS_SECONDS = 0.5
"""How long a worker that is silent may take to write its stacks down before it is ended."""
_STACKS_PAUSE = 0.02
"""Stacks are whole once nothing has been added for so long; writing them takes a millisecond."""


class WorkerProcess:
    """The server's handle of one worker process."""

    def __init__(self, launcher: Launcher, events: Events) -> None:
        self._launcher = launcher
        self._events = events
        self._channel: AsyncChannel[FromWorker] | None = None
        self._launched: LaunchedWorker | None = None
        self._handle: ProcessHandle | None = None
        self._closed = asyncio.Event()
        self._loaded: asyncio.Future[Loaded] = asyncio.get_running_loop().create_future()
        self._batches = 0
        self._running: dict[int, _Clock] = {}
        self._asynchronous = False
        self._killed = False
        self._lifeline = Lifeline()
        self._ending: asyncio.Future[None] | None = None
        self._oom_kills = oom_kills()
        self.timed_out = False
        self.out_of_memory = False

    @property
    def pid(self) -> int:
        """The process id, -1 before the start."""
        return self._handle.pid if self._handle else -1

    @property
    def running(self) -> int:
        """How many batches the process has not finished."""
        return len(self._running)

    @property
    def is_closed(self) -> bool:
        """Whether the process takes no more batches."""
        return self._closed.is_set()

    async def start(self, load: Load, seconds: float) -> Loaded:
        """Start, connect and load the model within `seconds`. Raises `LoadError`."""
        try:
            await self._connect(load)
        except OSError as error:
            self._drop_channel()
            text = f"no worker process could be started: {error!r}"
            raise LoadError(text, ErrorKind.WORKER_DIED) from error  # not the model's fault
        except LoadError:
            self._drop_channel()
            raise
        self._asynchronous = load.asynchronous
        try:
            return await asyncio.wait_for(asyncio.shield(self._loaded), seconds)
        except TimeoutError:
            await self._end_silent()
            raise LoadError(
                f"loading took longer than {seconds:g} s (startupTimeout / startup_timeout)"
            ) from None
        except EOFError:
            told = describe_exit(await self.wait())
            raise LoadError(f"the worker process ended while loading the model: {told}") from None

    async def _connect(self, load: Load) -> None:
        """Connect to a new process and tell it what to load.

        Raises `OSError` when there is none, or `LoadError`.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        send_with_descriptor(ours, load, self._lifeline.theirs)
        self._lifeline.handed_over()
        self._launched = self._launcher.launch(theirs)
        self._channel = await AsyncChannel.connect(
            ours,
            FromWorker,  # type: ignore[arg-type]  # a union is no `type`
            self._on_message,
            self._on_closed,
        )
        self._handle = await asyncio.wait_for(self._launched.started, self._launched.seconds)
        if self._killed:
            self._handle.kill()
        self._launched.exited.add_done_callback(self._on_exited)

    def run(self, items: list[InferenceRequest], timeout: float) -> int:
        """Send one batch; returns its number.

        Longer than `timeout` seconds without a sign: the process is ended. An asynchronous one,
        which has other batches to finish, is asked to cancel this one first.
        """
        assert self._channel is not None
        self._batches += 1
        number = self._batches
        self._running[number] = _Clock(timeout, lambda: self._expire(number))
        self._channel.send(Run(number, items))
        return number

    def cancel(self, batch: int, items: Sequence[int] = ()) -> None:
        """Ask the process to stop a batch, or items of it, for which nobody waits any more."""
        if self._channel is not None and batch in self._running:
            self._channel.send(Cancel(batch, list(items)))

    def ping(self) -> None:
        """Ask the process to show that it answers; `pong` follows."""
        if self._channel is not None:
            self._channel.send(Ping())

    def stop(self) -> None:
        """Ask the process to end once it is free."""
        if self._channel is not None:
            self._channel.send(Stop())

    def kill(self) -> None:
        """End the process now; one that has not started yet ends by its closed channel."""
        self._disarm()
        self._killed = True
        if self._handle is not None:
            self._handle.kill()
            return
        if self._launched is not None:
            self._launched.give_up("the worker was told to end")
        self._drop_channel()

    async def wait(self) -> int | None:
        """Wait until the process is gone; returns its exit code, or minus the signal's number.

        None where that cannot be known, because the zygote died before the process did.
        """
        await self._closed.wait()
        self._disarm()
        if self._launched is None or self._handle is None:
            self._lifeline.close()
            return -signal.SIGKILL
        ours = self._killed
        self.kill()  # a closed socket with a living process behind it: nothing to talk to
        status = await self._launched.exited
        killed = status == -signal.SIGKILL and not ours
        self.out_of_memory = status == OUT_OF_MEMORY_EXIT or (
            killed and oom_kills() > self._oom_kills
        )
        self._handle.close()
        for line in self._lifeline.last_words():
            self._events.log(Log(logging.ERROR, "faulthandler", line))
        self._lifeline.close()
        return status

    def _on_message(self, message: FromWorker) -> None:  # noqa: C901, PLR0912  # one case a message
        match message:
            case Output() | Failed() | Done() if self.timed_out:
                pass  # too late, or an error that was caused by asking for the stacks
            case Output():
                if message.batch in self._running:
                    self._heard_of(message.batch)
                    self._events.chunk(message.batch, message.index, message.chunk)
            case Failed():
                if message.batch in self._running:
                    self._heard_of(message.batch)
                    error = PredictionError(message.message, message.kind, status=message.status)
                    self._events.failed(message.batch, message.index, error)
            case Done():
                self._heard_of(message.batch)
                clock = self._running.pop(message.batch, None)
                if clock is not None:
                    clock.stop()
                    self._events.done(message)
            case Log():
                self._events.log(message)
            case Measured():
                self._events.measured(message)
            case Pong():
                self._events.pong(message.trouble)
            case Loaded():
                if not self._loaded.done():
                    self._loaded.set_result(message)
            case LoadFailed():
                self._fail_load(LoadError(message.message, message.kind))

    def _heard_of(self, batch: int) -> None:
        """A sign of a batch. Of a worker that computes one thing at a time, it is one for all."""
        if not self._asynchronous:
            for clock in self._running.values():
                clock.restart()
        elif batch in self._running:
            self._running[batch].restart()

    def _on_closed(self) -> None:
        self._fail_load(EOFError())
        self._closed.set()
        self._events.closed()

    def _on_exited(self, status: asyncio.Future[int | None]) -> None:
        """Children that a handler forked may hold the socket open: do not wait for their ends."""
        if status.result() is not None:
            asyncio.get_running_loop().call_later(_LAST_WORDS_SECONDS, self._drop_channel)

    def _drop_channel(self) -> None:
        if self._channel is not None:
            self._channel.close()
        else:
            self._closed.set()

    def _fail_load(self, error: LoadError | EOFError) -> None:
        if not self._loaded.done():
            self._loaded.set_exception(error)
            self._loaded.exception()  # mark as seen: the loader may have given up already

    def _disarm(self) -> None:
        for clock in self._running.values():
            clock.stop()

    def _expire(self, batch: int) -> None:
        if not self._asynchronous:
            self.timed_out = True
            self._end_soon()
            return
        self.cancel(batch)
        self._running[batch] = _Clock(_CANCEL_SECONDS, self._end_soon)
        self._events.expired(batch)

    def _end_soon(self) -> None:
        self._disarm()
        self._ending = self._ending or asyncio.ensure_future(self._end_silent())

    async def _end_silent(self) -> None:
        """Let the process write down what its threads do, into the model's log, then end it."""
        if self._handle is not None:
            self._handle.send_signal(DUMP_SIGNAL)
            loop = asyncio.get_running_loop()
            end, seen = loop.time() + _STACKS_SECONDS, 0
            while not self._killed and loop.time() < end:
                await asyncio.sleep(_STACKS_PAUSE)
                written = self._lifeline.waiting()
                if written and written == seen:
                    break
                seen = written
            if not seen and not self._killed:
                text = f"No stacks can be told: the process is {process_state(self.pid)}"
                self._events.log(Log(logging.ERROR, "faulthandler", text))
        self.kill()


class _Clock:
    """Calls `expire` once `seconds` have passed without a restart.

    A restart only notes the time: the timer looks at it when it is due.
    """

    def __init__(self, seconds: float, expire: Callable[[], None]) -> None:
        self._seconds = seconds
        self._expire = expire
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._timer = self._loop.call_at(self._since + seconds, self._due)

    def restart(self) -> None:
        self._since = self._loop.time()

    def _due(self) -> None:
        end = self._since + self._seconds
        if self._loop.time() >= end:
            self._expire()
        else:
            self._timer = self._loop.call_at(end, self._due)

    def stop(self) -> None:
        self._timer.cancel()


def oom_kills() -> int:
    """How many processes the kernel's OOM killer has ended since the machine's start; 0: unknown."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/vmstat").read_text().partition("\noom_kill ")[2].split()[0])
    return 0


def describe_exit(status: int | None) -> str:
    """Say how a process ended, in words: `signal SIGKILL` or `exit code 3`; None is unknown."""
    if status is None:
        return "cause unknown: its zygote had died before it"
    if status >= 0:
        return f"exit code {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"
