"""Brings waiting entries and free workers together; the only place where a batch is formed.

There is no loop that polls: `pump` runs when an entry arrives, when a worker becomes free and when
the oldest deadline passes. A batch stays the batcher's until each entry is settled: entries of a
worker that died, or of a batch of several that timed out, go back to the head of the queue once,
and then run alone.
"""

import asyncio
import time
from collections.abc import Callable

from flambeau.errors import ErrorKind, FlambeauError
from flambeau.scheduling.policy import Waiting, decide
from flambeau.scheduling.queue import MAX_ATTEMPTS, Entry, RequestQueue
from flambeau.supervisor.pool import Pool, no_worker_error
from flambeau.types import Chunk, InferenceRequest


class Batch:
    """Entries that one worker answers now."""

    def __init__(self, entries: list[Entry], batcher: "Batcher") -> None:
        self.entries = entries
        self._batcher = batcher

    def items(self) -> list[InferenceRequest]:
        """The requests, in the order of their indices."""
        return [entry.request for entry in self.entries]

    def chunk(self, index: int, chunk: Chunk) -> None:
        """Hand a part of an answer to its entry."""
        self.entries[index].push(chunk)

    def failed(self, index: int, error: FlambeauError) -> None:
        """Settle one entry with its own error."""
        self.entries[index].fail(error)

    def done(self, handler_seconds: float) -> None:
        """Settle whatever the worker forgot, so that nobody waits for ever."""
        for entry in self.entries:
            if not entry.settled:
                entry.fail(FlambeauError(ErrorKind.INTERNAL, "the worker gave no answer"))
        self._batcher.finished(self, handler_seconds)

    def lost(self, error: FlambeauError) -> None:
        """The worker died or was too slow: try unanswered entries once more, each alone."""
        self._batcher.lost(self, error)


class Batcher:
    """The scheduler of one model."""

    def __init__(
        self,
        name: str,
        queue: RequestQueue,
        pool: Pool,
        batch_size: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.batch_size = batch_size
        self.on_batch: Callable[[Batch, float], None] = lambda _batch, _seconds: None
        self._name = name
        self._queue = queue
        self._pool = pool
        self._clock = clock
        self._running = 0
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        pool.on_change = self.pump

    def submit(self, entry: Entry) -> None:
        """Accept an entry. Raises `FlambeauError` when it cannot be served or the queue is full."""
        failure = self._pool.failure()
        if failure is not None or not self._pool.active():
            raise no_worker_error(self._name, failure)
        self._queue.put(entry)
        self._idle.clear()
        self.pump()

    def pump(self) -> None:
        """Form batches while something waits and a worker is free."""
        while len(self._queue) and (slot := self._pool.idle()) is not None:
            entries = self._take()
            if not entries:
                break
            self._running += 1
            slot.start(Batch(entries, self))
        if len(self._queue) and (self._pool.failure() is not None or not self._pool.active()):
            for entry in self._queue.drain():
                entry.fail(no_worker_error(self._name, self._pool.failure()))
        self._set_timer()
        if not len(self._queue) and not self._running:
            self._idle.set()

    def withdrawn(self) -> None:
        """A client left: forget what nobody waits for."""
        self._queue.drop_settled()
        self.pump()

    def finished(self, batch: Batch, handler_seconds: float) -> None:
        """A worker finished a batch."""
        self._running -= 1
        self.on_batch(batch, handler_seconds)

    def lost(self, batch: Batch, error: FlambeauError) -> None:
        """A worker died under a batch, or was ended because it gave no answer in time.

        One entry of a batch may take the time of all, so company is a reason to try again; an
        entry that was alone has had the whole time-out to itself.
        """
        self._running -= 1
        again: list[Entry] = []
        timed_out = error.kind is ErrorKind.TIMEOUT
        may_retry = not (timed_out and len(batch.entries) == 1)
        for entry in batch.entries:
            retriable = may_retry and not entry.streaming
            if retriable and not entry.settled and entry.attempts < MAX_ATTEMPTS:
                if timed_out:
                    entry.deadline = None  # it did begin in time; others must not use its time up
                again.append(entry)
            else:
                entry.fail(error)
        self._queue.put_back(again)
        self.pump()

    async def drained(self) -> None:
        """Wait until nothing waits and nothing runs."""
        await self._idle.wait()

    def _take(self) -> list[Entry]:
        """Remove the next batch from the queue, answering what is too late."""
        while len(self._queue):
            now = self._clock()
            waiting = (
                Waiting(e.settled, e.attempts, e.deadline, e.size, e.alone) for e in self._queue
            )
            decision = decide(waiting, now, self.batch_size)
            entries = self._queue.take(sum(map(len, decision)))
            for index in decision.expired:
                entries[index].fail(self._too_late())
            if decision.run:
                chosen = [entries[index] for index in decision.run]
                for entry in chosen:
                    entry.attempts += 1
                    entry.dispatched = now
                return chosen
        return []

    def _expire(self) -> None:
        """No worker became free before the oldest deadline: answer those that are too late."""
        self._timer = None
        now = self._clock()
        for entry in self._queue:
            if entry.deadline is not None and now >= entry.deadline:
                entry.fail(self._too_late())
        self._queue.drop_settled()
        self.pump()

    def _set_timer(self) -> None:
        if self._timer is not None or not len(self._queue):
            return  # the timer that runs was set for an older, hence earlier, deadline
        deadlines = [e.deadline for e in self._queue if e.deadline is not None]
        if deadlines:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(min(deadlines) - self._clock(), self._expire)

    def _too_late(self) -> FlambeauError:
        text = f'Model "{self._name}" had no free worker before the request\'s time-out'
        return FlambeauError(ErrorKind.TIMEOUT, text, retry_after=1)
