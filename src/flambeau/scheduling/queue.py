"""What waits for one model: entries that own their replies, in a bounded queue, first in first out.

Rules: an entry belongs to the queue until it is answered, also while a worker computes it; that is
what lets a crash be retried, a client leave and a deadline pass in one place. A reply is settled
once; what comes later is dropped. Nobody but the entry touches its reply.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from itertools import chain, islice
from typing import NamedTuple, Protocol

from flambeau.errors import ErrorKind, FlambeauError
from flambeau.scheduling.policy import LaneRoom, Room, Waiting, decide
from flambeau.types import BULK_TURN, Chunk, InferenceRequest

MAX_UNREAD_BYTES = 64 * 1024 * 1024
"""A client that leaves more of its stream than this unread is cut off: memory has a bound."""

MAX_ATTEMPTS = 2
"""A request is tried on at most this many workers: a poisonous one ends no more of them."""


class Entry:
    """One accepted request and its reply. Times are seconds on the monotonic clock.

    `alone` keeps it out of batches (describe requests). `lane` is the one that the client asked for;
    `bulk` work yields to other requests, `tokens` is what it will probably cost. `sequence` is its
    place in a sequence, None for a stateless model. `on_news` is called where there is something to
    `take`, `on_left` where the client leaves while a worker computes.
    """

    __slots__ = (
        "_chunks",
        "_error",
        "_unread",
        "_wakeup",
        "alone",
        "arrived",
        "attempts",
        "bulk",
        "deadline",
        "dispatched",
        "lane",
        "max_part_bytes",
        "on_left",
        "on_news",
        "on_settled",
        "request",
        "sequence",
        "settled",
        "size",
        "streaming",
        "tokens",
    )

    def __init__(
        self, request: InferenceRequest, arrived: float, deadline: float | None = None
    ) -> None:
        self.request = request
        self.arrived = arrived
        self.deadline = deadline
        self.dispatched = 0.0
        self.attempts = 0
        self.alone = False
        self.lane: str | None = None
        self.bulk = False
        self.tokens = 0
        self.sequence: SequencePlace | None = None
        self.max_part_bytes = 0  # of an answer's parts; 0: no limit
        self.streaming = False
        self.settled = False
        self.size = sum(len(field.value) for field in request.fields)
        self.on_left: Callable[[], None] | None = None
        self.on_news: Callable[[], None] | None = None
        self.on_settled: Callable[[Entry, FlambeauError | None], None] | None = None
        self._chunks: deque[Chunk] = deque()
        self._unread = 0
        self._error: FlambeauError | None = None
        self._wakeup: asyncio.Future[None] | None = None

    def push(self, chunk: Chunk) -> None:
        """Add a part of the answer; the last one settles the entry."""
        if self.settled:
            return
        if 0 < self.max_part_bytes < len(chunk.body):
            self.fail(_too_large(len(chunk.body), self.max_part_bytes))
            return
        if self._chunks and self._unread + len(chunk.body) > MAX_UNREAD_BYTES:
            self._chunks.clear()
            text = f"the client reads too slowly: {self._unread} bytes of the answer wait for it"
            self.fail(FlambeauError(ErrorKind.OVERLOADED, text))
            return
        self._chunks.append(chunk)
        self._unread += len(chunk.body)
        self.streaming = True
        if chunk.last:
            self._settle(None)
        self._wake()

    def fail(self, error: FlambeauError) -> None:
        """Settle the entry with an error."""
        if self.settled:
            return
        self._error = error
        self._settle(error)
        self._wake()

    @property
    def failed(self) -> bool:
        """Whether it was settled with an error."""
        return self._error is not None

    def cancel(self) -> None:
        """The client left: nobody reads the reply any more."""
        if not self.settled:
            self.fail(FlambeauError(ErrorKind.CANCELLED, "the client closed the connection"))

    async def next(self) -> Chunk:
        """Wait for the next part of the answer. Raises the entry's error."""
        while (chunk := self.take()) is None:
            assert not self.settled, "the last chunk was read already"
            self._wakeup = asyncio.get_running_loop().create_future()
            await self._wakeup
        return chunk

    def take(self) -> Chunk | None:
        """The next part of the answer, if it is there. Raises the entry's error."""
        if not self._chunks:
            if self._error is not None:
                raise self._error
            return None
        chunk = self._chunks.popleft()
        self._unread -= len(chunk.body)
        return chunk

    async def chunks(self) -> AsyncIterator[Chunk]:
        """All parts of the answer, the last one included."""
        while True:
            chunk = await self.next()
            yield chunk
            if chunk.last:
                return

    def _settle(self, error: FlambeauError | None) -> None:
        self.settled = True
        if self.on_settled is not None:
            self.on_settled(self, error)

    def _wake(self) -> None:
        if self.on_news is not None:
            self.on_news()
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)


def _too_large(size: int, limit: int) -> FlambeauError:
    text = (
        f"The answer has {size} bytes, which is more than max_response_size={limit} in"
        " config.properties."
    )
    return FlambeauError(ErrorKind.RESPONSE_TOO_LARGE, text)


class SequencePlace(NamedTuple):
    """Which sequence a request belongs to, and whether it opens or closes it (section 5.11)."""

    id: str
    opens: bool = False
    closes: bool = False


class Taken(NamedTuple):
    """Entries that leave the queue: to be run now, and too late to be run.

    `again_at` is when to ask again, if entries are held back.
    """

    run: list[Entry]
    late: list[Entry]
    again_at: float | None = None


class Source(Protocol):
    """Where a batcher gets its entries from: what waits, and who may run it."""

    capacity: int

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Entry]: ...

    def check(self) -> None:
        """Raise `FlambeauError` (OVERLOADED) where there is no room for whatever entry."""

    def put(self, entry: Entry) -> None:
        """Accept an entry. Raises `FlambeauError` where there is no room for it."""

    def put_back(self, entries: list[Entry]) -> None:
        """Return entries to the head, in order: they were accepted before those behind them."""

    def take(self, room: Room, now: float) -> Taken:
        """Remove the next batch for a worker."""

    def ran(self, entries: list[Entry], now: float) -> None:
        """A run of these entries is over; some of them may go on in the next one."""

    def heard(self, headers: Mapping[str, str]) -> None:
        """A handler answered with these headers."""

    def worker_gone(self, worker: int) -> list[Entry]:
        """A worker's process has ended; returns what nobody else can answer, removed."""

    def drop_settled(self) -> None:
        """Forget entries that nobody waits for any more."""

    def drain(self) -> list[Entry]:
        """Remove and return everything."""


class RequestQueue:
    """Waiting entries of one model, oldest first in two lanes; any worker may run any of them."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._interactive: deque[Entry] = deque()
        self._bulk: deque[Entry] = deque()
        self._turn = 0

    def __len__(self) -> int:
        return len(self._interactive) + len(self._bulk)

    def __iter__(self) -> Iterator[Entry]:
        return chain(self._interactive, self._bulk)

    def check(self) -> None:
        """Raise `FlambeauError` (OVERLOADED) when the queue is full.

        Whoever settles an entry that waits drops it: there is nothing to look for here.
        """
        if len(self) >= self.capacity:
            text = f"the queue is full: {self.capacity} requests wait already (job_queue_size)"
            raise FlambeauError(ErrorKind.OVERLOADED, text)

    def put(self, entry: Entry) -> None:
        """Append an entry. Raises as `check` does."""
        self.check()
        self._lane_of(entry).append(entry)

    def put_back(self, entries: list[Entry]) -> None:
        """Return entries to the head, in order: they were accepted before those behind them."""
        for entry in reversed(entries):
            self._lane_of(entry).appendleft(entry)

    def take(self, room: Room, now: float) -> Taken:
        """Remove the next batch, as the policy decides, and with it what is too late.

        A batch is of one lane. While both wait, bulk work has every `BULK_TURN`-th turn.
        """
        lanes = [self._interactive, self._bulk]
        if (room.busy or room.joining) and any(map(_must_run_alone, lanes)):
            return Taken([], [])  # the worker is to finish what it has, and take nothing beside it
        if self._interactive and self._bulk and self._turn % BULK_TURN == BULK_TURN - 1:
            lanes.reverse()
        taken = Taken([], [])
        for lane in lanes:
            own = LaneRoom(room.size, -1)
            if room.lanes is not None:
                own = room.lanes[lane is self._bulk]
            if not lane or own.size <= 0 or own.tokens == 0:
                continue
            tokens = own.tokens if room.lanes is not None else None
            again_at = self._take_from(lane, room._replace(size=own.size), now, tokens, taken)
            if taken.run:
                self._turn += 1
                return taken
            if again_at is not None:
                taken = taken._replace(again_at=min(again_at, taken.again_at or again_at))
        return taken

    @staticmethod
    def _take_from(
        lane: deque[Entry], room: Room, now: float, tokens: int | None, taken: Taken
    ) -> float | None:
        """Move a lane's next batch into `taken`; returns when to ask again, if it is held back."""
        while lane and not taken.run:
            decision = decide(map(policy_view, lane), now, room, tokens)
            entries = [lane.popleft() for _ in range(decision.decided())]
            taken.run.extend(entries[index] for index in decision.run)
            taken.late.extend(entries[index] for index in decision.expired)
            if not entries:
                return decision.again_at
        return None

    def _lane_of(self, entry: Entry) -> deque[Entry]:
        return self._bulk if entry.bulk else self._interactive

    def ran(self, entries: list[Entry], now: float) -> None:
        """Nothing to note: entries know nothing of each other."""

    def heard(self, headers: Mapping[str, str]) -> None:
        """Nothing to note."""

    def worker_gone(self, worker: int) -> list[Entry]:  # noqa: ARG002  # any worker may answer
        """Nothing is lost: any other worker may answer."""
        return []

    def drop_settled(self) -> None:
        """Forget entries that nobody waits for any more."""
        for lane in (self._interactive, self._bulk):
            if any(entry.settled for entry in lane):
                waiting = [entry for entry in lane if not entry.settled]
                lane.clear()
                lane.extend(waiting)

    def drain(self) -> list[Entry]:
        """Remove and return everything."""
        entries = list(self)
        self._interactive.clear()
        self._bulk.clear()
        return entries


def _must_run_alone(lane: deque[Entry]) -> bool:
    """Whether the first entry that waits in a lane has been on a worker that was lost."""
    return any(entry.attempts > 0 for entry in islice((e for e in lane if not e.settled), 1))


def policy_view(entry: Entry) -> Waiting:
    """What the policy may know of an entry."""
    return Waiting(
        entry.settled,
        entry.attempts,
        entry.deadline,
        entry.size,
        entry.alone,
        entry.arrived,
        entry.tokens,
    )
