"""The workers of one model: as many slots as asked for, each of which keeps a worker alive."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from flambeau.errors import ErrorKind, FlambeauError, LoadError
from flambeau.ipc.messages import Load, Measured
from flambeau.supervisor.breaker import PROBE_SECONDS, Breaker, BreakerState
from flambeau.supervisor.interpreter import Interpreter
from flambeau.supervisor.process import WorkerProcess
from flambeau.supervisor.ranks import RankedWorker, Ranks
from flambeau.supervisor.slot import Slot, SlotState
from flambeau.supervisor.template import Template
from flambeau.supervisor.worker import Worker
from flambeau.supervisor.zygote import Zygote

logger = logging.getLogger(__name__)


class PoolOptions(msgspec.Struct, frozen=True):
    """How a pool treats its workers. Times in seconds.

    `concurrency` is how many jobs a worker runs at once, more than one only if asynchronous.
    Workers are forked from the zygote, or, on the CPU, from a template of the model where that can
    be shared, unless the model has an `interpreter`. A worker gets one of `gpus`, or is shown
    `devices_per_worker` of them where that is not 0 (section 4.5).
    """

    load: Load
    response_timeout: float
    startup_timeout: float
    gpus: tuple[int, ...] = ()
    concurrency: int = 1
    max_retry_timeout: float = 300
    interpreter: Interpreter | None = None
    devices_per_worker: int = 0
    ranks: Ranks | None = None


_ASK_SECONDS = 1.0
"""How often a slot asks whether the probe of another has closed the breaker."""


class WorkerNumbers(NamedTuple):
    """Where a pool gets its workers' numbers and turns at the GPUs from (section 4.5)."""

    next_worker: Callable[[], int]
    gpu_turn: Iterator[int]


class Pool:
    """All slots of one model. `run` must be running for anything to happen."""

    def __init__(
        self, zygote: Zygote, options: PoolOptions, cores: int, numbers: WorkerNumbers
    ) -> None:
        self.zygote = zygote
        self.options = options
        self.slots: list[Slot] = []
        self.breaker = Breaker()
        self.on_change: Callable[[], None] = lambda: None
        self.on_loaded: Callable[[Slot, float], None] = lambda _slot, _seconds: None
        self.on_death: Callable[[], None] = lambda: None
        self.on_measured: Callable[[Measured], None] = lambda _record: None
        self.on_gone: Callable[[Slot], None] = lambda _slot: None
        self.on_ended: Callable[[Slot], None] = lambda _slot: None
        self._cores = cores
        self._numbers = numbers
        self._group: asyncio.TaskGroup | None = None
        self._change = asyncio.Event()
        self._closed = asyncio.Event()
        self._template: Template | None = None
        if not (options.interpreter or options.gpus or options.load.asynchronous):
            self._template = Template(zygote, options.load, options.startup_timeout)

    async def run(self) -> None:
        """Own the slots' coroutines until `close` has ended them."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                await self._closed.wait()
                for slot in self.slots:
                    slot.retire()
        finally:
            if self._template is not None:
                await self._template.end()

    def close(self) -> None:
        """Retire every worker; `run` returns when they are gone."""
        self._closed.set()

    def kill(self) -> None:
        """End every worker now."""
        for slot in self.slots:
            slot.kill()
        self.close()

    def scale(self, minimum: int, maximum: int) -> None:
        """Grow to `minimum` or shrink to `maximum`; in between nothing changes (section 6.6)."""
        assert self._group is not None, "scale needs a running pool"
        if self._closed.is_set():
            return
        active = self.active()
        for _ in range(minimum - len(active)):
            slot = Slot(self._numbers.next_worker(), self._next_gpus(), self)
            self.slots.append(slot)
            self._group.create_task(slot.run())
        for slot in self._least_useful(active)[: max(len(active) - maximum, 0)]:
            slot.retire()
        if self._template is not None and not self.active():
            self._template.kill()  # nobody is to hold the model in memory
        self.changed()

    def active(self) -> list[Slot]:
        """Slots that were not told to end."""
        return [slot for slot in self.slots if not slot.retired]

    def with_room(self) -> list[Slot]:
        """Workers that can take a job now, the freest first."""
        rooms = [(slot.room(), slot) for slot in self.slots]
        return [slot for room, slot in sorted(rooms, key=lambda pair: -pair[0]) if room > 0]

    def pass_tokens(self) -> int:
        """Tokens that a forward pass of its workers has; 0 while nobody can tell."""
        return max((slot.pass_tokens for slot in self.slots), default=0)

    def healthy_count(self) -> int:
        """How many workers work, or may still come up within `maxRetryTimeoutInSec`."""
        return sum(slot.working for slot in self.active())

    def ready_count(self) -> int:
        """How many workers have loaded their model; none counts while the breaker is open."""
        if self._is_broken():
            return 0
        return sum(slot.state in (SlotState.IDLE, SlotState.BUSY) for slot in self.active())

    def lacking_canary(self, count: int) -> str:
        """Why it is not known that so many workers answer, for people; "" where it is.

        Asks workers that have been idle for long; what they say is a change.
        """
        answering = sum(slot.answers() for slot in self.active())
        return "" if answering >= count else f"{answering} of {count} workers answer"

    def failure(self) -> FlambeauError | None:
        """Why no worker can answer now, else None: every slot failed to load, or the breaker is open.

        One that is half open lets a request through where nothing runs.
        """
        if not self.breaker.closed and self._is_broken():
            probing = self.breaker.state is BreakerState.HALF_OPEN and self._probe_is_free()
            return None if probing else self._broken()
        first: Slot | None = None
        for slot in self.slots:
            if slot.retired:
                continue
            if slot.error is None:
                return None  # nearly always the first one: this is asked with each request
            first = first or slot
        return None if first is None else self._cannot_load(first)

    def _cannot_load(self, slot: Slot) -> FlambeauError:
        assert slot.error is not None
        what = "can be started" if slot.error.kind is ErrorKind.WORKER_DIED else "could load it"
        text = f'Model "{self.options.load.name}" has no worker that {what}: {slot.error.message}'
        soonest = min(each.retry_seconds() for each in self.active())
        return FlambeauError(ErrorKind.NO_WORKER, text, retry_after=max(math.ceil(soonest), 1))

    # the breaker

    def answered(self) -> None:
        """A worker has finished a batch."""
        if not self.breaker.closed:
            logger.info("Model %s answers again: its breaker is closed", self.options.load.name)
        self.breaker.answered()

    def died(self, slot: Slot, how: str) -> None:
        """A slot's worker has died, and no input is known to be the cause; `how` is for people."""
        others = [each.loaded_at for each in self.active() if each.loaded_at is not None]
        if self.breaker.died(how, min(others, default=None)):
            logger.error(
                "The breaker of model %s opens: %s. Requests are refused; a worker is tried every"
                " %g s. (%s)",
                self.options.load.name, self.breaker.reason, PROBE_SECONDS, slot.name,
            )  # fmt: skip
            self.distrust_template()

    def seconds_to_start(self, slot: Slot) -> float:
        """How long a slot still has to wait for its next process: one at a time is a probe."""
        if not self._is_broken():
            return 0
        if self.breaker.state is BreakerState.OPEN:
            return self.breaker.retry_after()
        others = any(each.has_process for each in self.active() if each is not slot)
        return _ASK_SECONDS if others else 0

    def _is_broken(self) -> bool:
        """Whether the breaker is not closed; closes it where a worker has lived for long enough."""
        if self.breaker.closed:
            return False
        if self.breaker.state is BreakerState.HALF_OPEN:
            alive_since = [slot.loaded_at for slot in self.active() if slot.loaded_at is not None]
            if alive_since and min(alive_since) <= time.monotonic() - PROBE_SECONDS:
                self.answered()
        return not self.breaker.closed

    def _probe_is_free(self) -> bool:
        """Whether a worker waits for a request and none has one."""
        states = {slot.state for slot in self.active()}
        return SlotState.IDLE in states and SlotState.BUSY not in states

    def _broken(self) -> FlambeauError:
        text = (
            f'Model "{self.options.load.name}" has no worker that stays alive:'
            f" {self.breaker.reason}. The server's log says how they ended"
        )
        seconds = self.breaker.retry_after()
        return FlambeauError(ErrorKind.NO_WORKER, text, retry_after=seconds)

    def threads_per_worker(self) -> int:
        """An equal share of the cores for each worker on the CPU; never oversubscribed."""
        if self.options.gpus:
            return 0
        return max(1, self._cores // max(1, len(self.active())))

    async def wait_ready(self, count: int) -> None:
        """Wait until `count` workers are ready. Raises `LoadError` when one of them cannot load."""
        while self.ready_count() < min(count, len(self.active())):
            failed = next((slot.error for slot in self.active() if slot.error), None)
            if failed is not None:
                raise failed
            with contextlib.suppress(TimeoutError):  # a breaker closes as time passes
                await asyncio.wait_for(self.next_change(), _ASK_SECONDS)
        if self._closed.is_set():
            raise LoadError("it was taken out of service while it was loading", ErrorKind.CONFLICT)

    async def wait_gone(self) -> None:
        """Wait until every retired worker's process is gone, with the last the template's."""
        while any(slot.retired and slot.state is not SlotState.ENDED for slot in self.slots):
            await self.next_change()
        if self._template is not None and not self.active():
            await self._template.end()

    async def next_change(self) -> None:
        """Wait until any slot changes its state."""
        await self._change.wait()

    def changed(self) -> None:
        """Wake everybody who waits for a change, and let the owner look for work."""
        change, self._change = self._change, asyncio.Event()
        change.set()
        self.slots = [slot for slot in self.slots if slot.state is not SlotState.ENDED]
        self.on_change()

    def new_worker(self, slot: Slot) -> Worker:
        """A worker for a slot, not started yet."""
        options = self.options
        if options.interpreter is None:
            return WorkerProcess(self._template or self.zygote, slot)
        interpreter = options.interpreter
        if options.devices_per_worker and slot.gpus:
            interpreter = interpreter.that_sees(slot.gpus)
        if options.ranks is not None:
            run_id = f"{options.load.name}_{slot.number}"
            return RankedWorker(interpreter, options.ranks, slot, run_id, gpus=bool(slot.gpus))
        threads = self.threads_per_worker()
        if threads and "OMP_NUM_THREADS" not in interpreter.environment:
            interpreter = interpreter.with_variables({"OMP_NUM_THREADS": str(threads)})
        return WorkerProcess(interpreter, slot)

    def distrust_template(self) -> None:
        """Workers keep dying: whatever they have inherited, the next one is to be loaded afresh."""
        if self._template is not None:
            self._template.kill()

    def _next_gpus(self) -> tuple[int, ...]:
        """The next device in turn, or the next group of them."""
        devices, count = self.options.gpus, self.options.devices_per_worker or 1
        groups = len(devices) // count
        if not groups:
            return ()
        first = next(self._numbers.gpu_turn) % groups * count
        return devices[first : first + count]

    @staticmethod
    def _least_useful(slots: list[Slot]) -> list[Slot]:
        order = [SlotState.WAITING, SlotState.LOADING, SlotState.IDLE, SlotState.BUSY]
        return sorted(slots, key=lambda slot: order.index(slot.state))


def no_worker_error(name: str) -> FlambeauError:
    """The error of a request for a model that has no worker, nor is to have one."""
    text = (
        f'Model "{name}" has no worker to serve inference request. Please use scale workers API'
        " to add workers. If this is a sequence inference, please check if it is closed, or"
        " expired; or exceeds maxSequenceJobQueueSize"
    )
    return FlambeauError(ErrorKind.NO_WORKER, text)
