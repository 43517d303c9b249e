"""Brings waiting entries and workers together; the only place where a batch is formed.

There is no loop that polls: `pump` runs when an entry arrives, when a worker has room, and when a
batch was held back for long enough. A batch
stays the batcher's until each entry is settled: entries of a worker that died, or of a batch of
several that timed out, go back to the head of the queue once, and then run alone.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable

from flambeau.errors import WORKER_DIED, ErrorKind, FlambeauError
from flambeau.scheduling.batch import Batch, ContinuousBatch
from flambeau.scheduling.deadlines import Deadlines, Patience
from flambeau.scheduling.pace import Pace
from flambeau.scheduling.policy import LaneRoom, Room
from flambeau.scheduling.quarantine import DEATHS, REFUSED_SECONDS, Quarantine
from flambeau.scheduling.queue import MAX_ATTEMPTS, Entry, Source
from flambeau.scheduling.sequences import sequence_lost
from flambeau.supervisor.pool import Pool, no_worker_error
from flambeau.supervisor.slot import AHEAD, Slot

logger = logging.getLogger(__name__)

_PATIENT = Patience(120, 120, 240, "job_queue_timeout")

MIN_BULK_BYTES = 2_048
"""A request without a lane of its own is bulk work where it has more bytes than this, and is more
than one forward pass."""


class Batcher:
    """The scheduler of one model.

    `limit_of` makes a batch's limit of the model's batch size. A batch that is not full is held back
    until its oldest entry has waited for `wait` seconds; `patience` is for how long a request may
    wait at all. `continuous` lets requests join a batch that runs; `ticket` refuses a request for
    which no worker is free (section 4.1).
    """

    def __init__(  # noqa: PLR0913  # the modes are independent
        self,
        name: str,
        source: Source,
        pool: Pool,
        batch_size: int,
        *,
        limit_of: Callable[[int], int] = lambda batch_size: batch_size,
        wait: float = 0,
        patience: Patience = _PATIENT,
        continuous: bool = False,
        ticket: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.batch_size = batch_size
        self.on_batch: Callable[[Batch, float], None] = lambda _batch, _seconds: None
        self.source = source
        self.cost = CostEstimate()
        self.quarantine = Quarantine(clock)
        self._name = name
        self._limit_of = limit_of
        self._pool = pool
        self._wait = wait
        self._patience = patience
        self._deadlines = Deadlines(source, self._expire, clock)
        self._pace = Pace()
        self._timer: asyncio.TimerHandle | None = None
        self._pump_is_due = False
        self._continuous = continuous
        self._ticket = ticket
        self._clock = clock
        self._running: set[Batch] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        pool.on_change = self.pump
        pool.on_gone = self._worker_gone

    @property
    def limit(self) -> int:
        """Most entries of a batch."""
        return self._limit_of(self.batch_size)

    def submit(self, entry: Entry) -> None:
        """Accept an entry.

        Raises `FlambeauError` when it cannot be served, the queue is full, or its input has ended
        workers.
        """
        self.check()
        if seconds := self.quarantine.seconds_left(entry.request):
            raise self._refused(seconds)
        entry.tokens = self.cost.tokens(entry.size)
        pass_tokens = self._pool.pass_tokens()
        if pass_tokens and entry.request.headers.get("explain") == "True":
            entry.bulk = True  # of many passes, whatever its size
        elif entry.lane is not None:
            entry.bulk = entry.lane == "bulk"
        else:
            large = 0 < pass_tokens < entry.tokens
            entry.bulk = large and entry.size > MIN_BULK_BYTES
        if entry.deadline is None:
            entry.deadline = entry.arrived + self._longest_wait()
        try:
            self.source.put(entry)
        except FlambeauError as error:
            raise self._with_wait(error) from None
        self._idle.clear()
        self.pump()
        if not entry.attempts:
            self._deadlines.watch(entry)

    def check(self) -> None:
        """Raise the error of a request that would be refused whatever it is."""
        if (refusal := self._no_worker()) is not None:
            raise refusal
        if self._ticket and len(self.source) >= self._tickets():
            raise self._with_wait(no_worker_error(self._name))
        try:
            self.source.check()
        except FlambeauError as error:
            raise self._with_wait(error) from None

    def retry_after(self) -> int:
        """In how many seconds a request that is refused now may come again, from 1 to 60."""
        return self._pace.retry_after(len(self.source), self._clock())

    def pump(self) -> None:
        """Form batches while something waits and a worker has room for it."""
        going = True
        while going and len(self.source):
            going = False
            for slot in self._pool.with_room():
                if entries := self.take(self._room(slot)):
                    self._start(slot, entries)
                    going = True
        if len(self.source) and (refusal := self._no_worker()) is not None:
            for entry in self.source.drain():
                entry.fail(refusal)
        if not len(self.source) and not self._running:
            self._idle.set()
            self._pace.idle()

    def _room(self, slot: Slot) -> Room:
        """What a worker can take now. One that runs several batches: at most two full ones."""
        busy, size = slot.running > 0, self.limit
        if not slot.pass_tokens:
            return Room(slot.number, size, busy=busy, wait=self._wait)
        lanes = (self._lane_room(slot, bulk=False), self._lane_room(slot, bulk=True))
        return Room(slot.number, size, busy=busy, wait=self._wait, lanes=lanes)

    def _lane_room(self, slot: Slot, *, bulk: bool) -> LaneRoom:
        running = [b for b in self._running if b.slot is slot and b.bulk == bulk]
        held = sum(not entry.settled for batch in running for entry in batch.entries)
        size = min(self.limit, max(AHEAD * self.limit - held, 0))
        return LaneRoom(size, slot.token_room(bulk=bulk))

    def take(self, room: Room) -> list[Entry]:
        """Remove the next entries for a worker, answering what is too late."""
        now = self._clock()
        taken = self.source.take(room, now)
        for entry in taken.late:
            entry.fail(self._too_late(entry))
        for entry in taken.run:
            entry.attempts += 1
            entry.dispatched = now
        if taken.again_at is not None and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(taken.again_at - now, self._waited)
        return taken.run

    def _waited(self) -> None:
        self._timer = None
        self.pump()

    def answered(self) -> None:
        """An entry of a batch that goes on was settled: its worker may have room again."""
        if len(self.source) and not self._pump_is_due:
            self._pump_is_due = True
            asyncio.get_running_loop().call_soon(self._pump_due)

    def _pump_due(self) -> None:
        self._pump_is_due = False
        self.pump()

    def _expire(self, entries: list[Entry]) -> None:
        """No worker has begun with these before their deadlines: answer them."""
        for entry in entries:
            entry.fail(self._too_late(entry))
        self.source.drop_settled()
        self.pump()

    def _longest_wait(self) -> float:
        loaded = self._pool.ready_count() > 0
        return self._patience.usual if loaded else self._patience.loading

    def withdrawn(self, entry: Entry) -> None:
        """Nobody waits for this entry any more."""
        self.source.drop_settled()
        if entry.on_left is not None:
            entry.on_left()
        self.pump()

    def ran(self, batch: Batch, handler_seconds: float, *, finished: bool) -> None:
        """A run of a batch is over."""
        now = self._clock()
        self.source.ran(batch.entries, now)
        self.on_batch(batch, handler_seconds)
        settled = sum(entry.settled for entry in batch.entries)
        self._pace.answered(settled, now, waiting=len(self.source) > 0)
        for entry in batch.entries:
            if entry.settled:
                entry.on_left = None  # no cycle: bodies are freed at once
            if entry.settled and not entry.failed:
                self.quarantine.clear(entry.request)
        if finished:
            self._running.discard(batch)

    def lost(self, batch: Batch, error: FlambeauError, *, company: bool) -> bool:
        """A worker died under a batch, or was ended because it gave no answer in time.

        True where an input of it is refused from now on.

        One entry may take the time of all, so company is a reason to try again; an entry that was
        alone has had the whole time-out to itself. A sequence's state died with its
        worker, so its requests are not tried again, and no input that has ended two workers is.
        """
        self._running.discard(batch)
        ended = batch.slot.pid < 0
        blamed = False
        if ended and not batch.slot.retired:
            blamed = self.blame(batch, alone=not company)
        self.source.ran(batch.entries, self._clock())
        alone_too_slow = error.kind is ErrorKind.TIMEOUT and not company
        again: list[Entry] = []
        for entry in batch.entries:
            entry.on_left = None
            retriable = not (alone_too_slow or entry.streaming or entry.sequence)
            if entry.settled:
                continue
            if retriable and entry.attempts < MAX_ATTEMPTS and not self._is_refused(entry):
                self._give_time(entry)
                again.append(entry)
            elif entry.sequence is not None and ended:
                entry.fail(sequence_lost(entry.sequence.id, error))
            else:
                entry.fail(error)
        self.source.put_back(again)
        for entry in again:
            self._deadlines.watch(entry)
        self.pump()
        return blamed

    def _give_time(self, entry: Entry) -> None:
        """A lost worker has used up an entry's time, unless that is the client's own."""
        if entry.deadline is not None and self._patience.again:
            entry.deadline = max(entry.deadline, self._clock() + self._patience.again)

    def blame(self, batch: Batch, *, alone: bool) -> bool:
        """Note that a worker has ended under the entries of a batch that were not answered.

        True where an input is refused from now on; those with it that wait are answered.
        """
        blamed = False
        death = (batch.slot.number, batch.slot.started_at)
        for entry in batch.entries:
            if entry.settled and not entry.failed:
                continue
            if not self.quarantine.blame(entry.request, death, alone=alone):
                continue
            blamed = True
            logger.error(
                "Model %s: %d workers ended under one input, the last with request %s. The input is"
                " refused for %g s.",
                self._name, DEATHS, entry.request.id, REFUSED_SECONDS,
            )  # fmt: skip
            for waiting in list(self.source):
                if self._is_refused(waiting):
                    waiting.fail(self._refused(REFUSED_SECONDS))
            self.source.drop_settled()
        return blamed

    async def drained(self) -> None:
        """Wait until nothing waits and nothing runs; from now on nothing is held back."""
        self._wait = 0
        self.pump()
        await self._idle.wait()

    def close(self) -> None:
        """Nothing comes any more."""
        self._deadlines.stop()

    def _start(self, slot: Slot, entries: list[Entry]) -> None:
        kind = ContinuousBatch if self._continuous else Batch
        batch = kind(entries, self, slot)
        self._running.add(batch)
        slot.start(batch)

    def _tickets(self) -> int:
        """How many more requests workers can begin at once."""
        joinable = sum(batch.room() for batch in self._running)
        free = [
            int(not slot.running) if slot.pass_tokens else slot.room()
            for slot in self._pool.with_room()
        ]
        return joinable + sum(free)

    def _worker_gone(self, slot: Slot) -> None:
        error = FlambeauError(ErrorKind.WORKER_DIED, WORKER_DIED)
        for entry in self.source.worker_gone(slot.number):
            assert entry.sequence is not None, "stateless requests can be answered by any worker"
            entry.fail(sequence_lost(entry.sequence.id, error))

    def _no_worker(self) -> FlambeauError | None:
        """Why no worker is going to answer what waits; None where one may."""
        return self._pool.failure() or (
            None if self._pool.active() else no_worker_error(self._name)
        )

    def _is_refused(self, entry: Entry) -> bool:
        return self.quarantine.seconds_left(entry.request) > 0

    def _refused(self, seconds: float) -> FlambeauError:
        text = (
            f'Model "{self._name}" refuses this input: {DEATHS} workers ended while they computed'
            f" it. It is tried again in {math.ceil(seconds)} s; the server's log says how they ended."
        )
        return FlambeauError(ErrorKind.POISONOUS_INPUT, text, retry_after=math.ceil(seconds))

    def _too_late(self, entry: Entry) -> FlambeauError:
        waited = self._clock() - entry.arrived
        text = (
            f'Model "{self._name}" had no free worker before the request\'s time-out: it waited for'
            f" {waited:.3g} s ({self._patience.key})"
        )
        return self._with_wait(FlambeauError(ErrorKind.TIMEOUT, text))

    def _with_wait(self, error: FlambeauError) -> FlambeauError:
        if error.kind is not ErrorKind.SEQUENCE_LOST:  # a sequence that is lost does not come back
            error.retry_after = self.retry_after()
        return error


class CostEstimate:
    """What a request will cost, from its size: tokens a byte, learned from those that have run.

    Within bounds: texts that were cut to what the model reads, or that are shorter than the tokens
    which each text gets anyway, say little about others.
    """

    def __init__(self) -> None:
        self._per_byte = 0.25

    def tokens(self, size: int) -> int:
        """How many tokens a body of so many bytes probably has."""
        return _SPECIAL_TOKENS + round(size * self._per_byte)

    def learn(self, size: int, tokens: int, count: int) -> None:
        """`count` bodies of so many bytes together had so many tokens."""
        if not size:
            return
        found = (tokens - _SPECIAL_TOKENS * count) / size
        share = 0.1 * min(1.0, size / (_TELLING_BYTES * count))
        rate = self._per_byte + share * (found - self._per_byte)
        self._per_byte = min(max(rate, _FEWEST_PER_BYTE), _MOST_PER_BYTE)


_SPECIAL_TOKENS = 2
_TELLING_BYTES = 100
_FEWEST_PER_BYTE, _MOST_PER_BYTE = 0.1, 1.0
