"""What waits for a stateful model: one queue a sequence, each owned by one worker (section 5.11).

A sequence opens with its first request, belongs to the worker that takes it, and has at most one
request in a batch. It closes when its client or its handler says so, when it was idle for too long
or is too old, and when its worker's process ends: its state was there.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import chain

import msgspec

from flambeau.errors import WORKER_DIED, ErrorKind, FlambeauError
from flambeau.scheduling.policy import Room, decide
from flambeau.scheduling.queue import Entry, RequestQueue, Taken, policy_view

MAX_LOST = 10_000
"""Lost sequences whose clients have not been told yet; of more, the oldest are forgotten."""


class SequenceRules(msgspec.Struct, frozen=True):
    """Limits of a model's sequences. Times in seconds; `max_age` 0 is none.

    `queue_size` is how many requests of a sequence may wait behind the one that runs. `end_header`
    is the response header with which a handler closes sequences.
    """

    max_number: int
    queue_size: int
    max_idle: float
    max_age: float
    end_header: str


class _Sequence:
    """One open sequence. `held`: a request of it is in a batch that has not run yet."""

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        self.owner: int | None = None
        self.waiting: deque[Entry] = deque()
        self.running: list[Entry] = []
        self.held = False
        self.opened = now
        self.used = now

    def is_over(self, now: float, rules: SequenceRules) -> bool:
        """Whether it has been idle for too long, or is too old, and nothing of it is under way."""
        if self.held or any(not entry.settled for entry in (*self.waiting, *self.running)):
            return False
        too_old = rules.max_age > 0 and now >= self.opened + rules.max_age
        return too_old or now >= self.used + rules.max_idle


class SequenceQueue:
    """Waiting entries of a stateful model. Those without a sequence (describe) run anywhere.

    `workers` says how many workers share the sequences; `refuse` makes the error of a request that
    would open one too many.
    """

    def __init__(
        self,
        capacity: int,
        rules: SequenceRules,
        workers: Callable[[], int],
        refuse: Callable[[], FlambeauError],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.capacity = capacity
        self._rules = rules
        self._workers = workers
        self._refuse = refuse
        self._clock = clock
        self._anywhere = RequestQueue(capacity)
        self._open: dict[str, _Sequence] = {}
        self._lost: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._anywhere) + sum(len(each.waiting) for each in self._open.values())

    def __iter__(self) -> Iterator[Entry]:
        return chain(self._anywhere, *(each.waiting for each in self._open.values()))

    def check(self) -> None:
        """Each sequence has room of its own: only `put` can tell."""

    def put(self, entry: Entry) -> None:
        """Append an entry to its sequence, which opens if need be.

        Raises `FlambeauError`: too many open sequences, too many requests of this one (OWN_LIMIT),
        or its state was lost with a worker (told once; then the sequence may be opened again).
        """
        place = entry.sequence
        if place is None:
            self._anywhere.put(entry)
            return
        now = self._clock()
        sequence = self._open.get(place.id)
        if sequence is not None and sequence.is_over(now, self._rules):
            del self._open[place.id]
            sequence = None
        if sequence is None:
            sequence = self._begin(place.id, now, told_to_start=place.opens)
        room = self._rules.queue_size + (0 if sequence.held else 1)
        if sum(not waiting.settled for waiting in sequence.waiting) >= room:
            raise _too_many_of_one(place.id, self._rules.queue_size)
        sequence.waiting.append(entry)

    def put_back(self, entries: list[Entry]) -> None:
        """Only what has no sequence is tried again."""
        self._anywhere.put_back(entries)

    def take(self, room: Room, now: float) -> Taken:
        """Remove the next batch for a worker: at most one entry of each of its sequences."""
        taken = self._anywhere.take(room, now)
        if taken.run or (room.joining and len(self._anywhere)):
            return taken
        self._adopt(room.worker)
        while not taken.run:
            heads = self._heads(room.worker)
            decision = decide((policy_view(each.waiting[0]) for each in heads), now, room)
            for index in decision.forget:
                heads[index].waiting.popleft()
            taken.late.extend(heads[index].waiting.popleft() for index in decision.expired)
            for index in decision.run:
                sequence = heads[index]
                entry = sequence.waiting.popleft()
                sequence.held = True
                sequence.running = [each for each in sequence.running if not each.settled]
                sequence.running.append(entry)
                taken.run.append(entry)
            if not decision.forget and not decision.expired:
                return taken._replace(again_at=decision.again_at)
        return taken

    def ran(self, entries: list[Entry], now: float) -> None:
        """Let each sequence's next request come, and close those that were told to end."""
        for entry in entries:
            sequence = self._open.get(entry.sequence.id) if entry.sequence else None
            if sequence is None or entry not in sequence.running:
                continue
            sequence.held = False
            sequence.used = now
            if entry.settled and entry.sequence is not None and entry.sequence.closes:
                self._close(sequence)

    def heard(self, headers: Mapping[str, str]) -> None:
        """Close the sequences that a handler names, joined by `;`."""
        wanted = self._rules.end_header.lower()
        for key, value in headers.items():
            if key.lower() == wanted:
                for name in value.split(";"):
                    sequence = self._open.get(name.strip())
                    if sequence is not None:
                        self._close(sequence)

    def worker_gone(self, worker: int) -> list[Entry]:
        """Close a worker's sequences; returns their waiting entries."""
        orphans: list[Entry] = []
        for sequence in [each for each in self._open.values() if each.owner == worker]:
            del self._open[sequence.name]
            waiting = [entry for entry in sequence.waiting if not entry.settled]
            orphans.extend(waiting)
            told = bool(waiting) or any(not entry.settled for entry in sequence.running)
            if not told and not sequence.is_over(self._clock(), self._rules):
                self._lost[sequence.name] = None
        while len(self._lost) > MAX_LOST:
            del self._lost[next(iter(self._lost))]
        return orphans

    def drop_settled(self) -> None:
        """Forget entries that nobody waits for any more."""
        self._anywhere.drop_settled()
        for sequence in self._open.values():
            if any(entry.settled for entry in sequence.waiting):
                sequence.waiting = deque(each for each in sequence.waiting if not each.settled)

    def drain(self) -> list[Entry]:
        """Remove and return everything that waits."""
        entries = self._anywhere.drain()
        for sequence in self._open.values():
            entries.extend(sequence.waiting)
            sequence.waiting.clear()
        return entries

    def _begin(self, name: str, now: float, *, told_to_start: bool) -> _Sequence:
        if name in self._lost:
            del self._lost[name]
            if not told_to_start:
                raise sequence_lost(name, FlambeauError(ErrorKind.WORKER_DIED, WORKER_DIED))
        if len(self._open) >= self._rules.max_number:
            for old in [each for each in self._open.values() if each.is_over(now, self._rules)]:
                del self._open[old.name]
        if len(self._open) >= self._rules.max_number:
            raise self._refuse()
        sequence = self._open[name] = _Sequence(name, now)
        return sequence

    def _close(self, sequence: _Sequence) -> None:
        """End a sequence; requests that came after its end are a new one's."""
        del self._open[sequence.name]
        waiting = deque(entry for entry in sequence.waiting if not entry.settled)
        if waiting:
            again = self._open[sequence.name] = _Sequence(sequence.name, self._clock())
            again.waiting = waiting

    def _adopt(self, worker: int) -> None:
        """Let a worker own its share of the sequences that nobody owns yet, oldest first."""
        free = [each for each in self._open.values() if each.owner is None and each.waiting]
        if not free:
            return
        workers = max(self._workers(), 1)
        owned = sum(each.owner == worker for each in self._open.values())
        quota = max(1, -(-self._rules.max_number // workers)) - owned
        for sequence in free[: max(min(quota, -(-len(free) // workers)), 0)]:
            sequence.owner = worker

    def _heads(self, worker: int) -> list[_Sequence]:
        """A worker's sequences that have something to run now, the oldest request first."""
        mine = [each for each in self._open.values() if each.owner == worker]
        ready = [each for each in mine if each.waiting and not each.held]
        return sorted(ready, key=lambda each: each.waiting[0].arrived)


def _too_many_of_one(name: str, limit: int) -> FlambeauError:
    text = (
        f"Of sequence {name} {limit} requests wait already, behind the one that runs"
        " (maxSequenceJobQueueSize)."
    )
    return FlambeauError(ErrorKind.OWN_LIMIT, text)


def sequence_lost(name: str, error: FlambeauError) -> FlambeauError:
    """The error of a request whose sequence has lost its state together with its worker.

    Not one that proxies repeat by themselves: repeated, the request would open a new sequence.
    """
    text = (
        f"{error.message.rstrip('.')}. The state of sequence {name} is lost: start a new sequence."
    )
    died = error.kind is ErrorKind.WORKER_DIED
    return FlambeauError(ErrorKind.SEQUENCE_LOST if died else error.kind, text)
