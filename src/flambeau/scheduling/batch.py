"""Entries that one worker answers now: in one run, or in as many as they need."""

from typing import TYPE_CHECKING

from typing_extensions import override

from flambeau.errors import WORKER_DIED, ErrorKind, FlambeauError
from flambeau.scheduling.policy import Room
from flambeau.scheduling.queue import Entry
from flambeau.supervisor.slot import Slot
from flambeau.types import Chunk, InferenceRequest

if TYPE_CHECKING:
    from flambeau.scheduling.batcher import Batcher


class Batch:
    """Entries that one worker answers in one run. `joined` are those whose first run it is."""

    def __init__(self, entries: list[Entry], batcher: "Batcher", slot: Slot) -> None:
        self.entries = entries
        self.joined = entries
        self.slot = slot
        self._batcher = batcher
        for entry in entries:
            entry.on_left = self._left

    @property
    def exclusive(self) -> bool:
        """Whether an entry that has been on a lost worker must not harm others again."""
        return any(entry.attempts > 1 and not entry.streaming for entry in self.entries)

    @property
    def tokens(self) -> int:
        """What the unanswered entries will probably cost."""
        return sum(entry.tokens for entry in self.entries if not entry.settled)

    @property
    def bulk(self) -> bool:
        """Whether these are entries of the bulk lane; a batch is of one lane."""
        return self.entries[0].bulk

    def room(self) -> int:
        """How many entries may still join."""
        return 0

    def items(self) -> list[InferenceRequest]:
        """The requests of this run, in the order of their indices."""
        return [entry.request for entry in self.entries]

    def chunk(self, index: int, chunk: Chunk) -> None:
        """Hand a part of an answer to its entry."""
        entry = self.entries[index]
        if chunk.headers:
            self._batcher.source.heard(chunk.headers)
        entry.push(chunk)
        if entry.settled and not chunk.last:
            self._left()  # it was cut off
        if entry.settled and self.slot.pass_tokens:
            self._batcher.answered()

    def failed(self, index: int, error: FlambeauError) -> None:
        """Settle one entry with its own error."""
        self.entries[index].fail(error)
        if self.slot.pass_tokens:
            self._batcher.answered()

    def done(self, handler_seconds: float, *, again: bool, tokens: int) -> bool:  # noqa: ARG002  # one run
        """Settle whatever the worker forgot, so that nobody waits for ever."""
        if tokens and all(entry.settled and not entry.failed for entry in self.entries):
            size = sum(entry.size for entry in self.entries)
            self._batcher.cost.learn(size, tokens, len(self.entries))
        for entry in self.entries:
            if not entry.settled:
                entry.fail(_forgotten())
        self._batcher.ran(self, handler_seconds, finished=True)
        return False

    def ended_worker(self, *, company: bool) -> None:
        """Note whose requests have left the worker unusable."""
        self._batcher.blame(self, alone=not company and len(self.entries) == 1)

    def lost(self, error: FlambeauError, *, company: bool) -> bool:
        """The worker died or was too slow: try unanswered entries once more, each alone.

        True where an input of it is refused from now on.
        """
        return self._batcher.lost(self, error, company=company or len(self.entries) > 1)

    def _left(self) -> None:
        if all(entry.settled for entry in self.entries):
            self.slot.cancel(self)
        elif self.slot.pass_tokens:
            self.slot.cancel(self, [i for i, each in enumerate(self.entries) if each.settled])


class ContinuousBatch(Batch):
    """Entries that one worker answers in many runs; others join in between (section 5.12).

    Each run gives every entry one chunk. An entry leaves with its last chunk, with its error, or
    with its client; its body travels with the first run only.
    """

    def __init__(self, entries: list[Entry], batcher: "Batcher", slot: Slot) -> None:
        super().__init__(entries, batcher, slot)
        self._heard: set[int] = set()

    @override
    def room(self) -> int:
        if self.exclusive or any(entry.alone for entry in self.entries) or self.slot.retired:
            return 0
        staying = sum(not entry.settled for entry in self.entries)
        return max(self._batcher.limit - staying, 0)

    @override
    def items(self) -> list[InferenceRequest]:
        cached = [entry for entry in self.entries if entry not in self.joined]
        requests = [InferenceRequest(e.request.id, e.request.headers, []) for e in cached]
        return requests + [entry.request for entry in self.joined]

    @override
    def chunk(self, index: int, chunk: Chunk) -> None:
        self._heard.add(index)
        super().chunk(index, chunk)

    @override
    def failed(self, index: int, error: FlambeauError) -> None:
        self._heard.add(index)
        super().failed(index, error)

    @override
    def done(self, handler_seconds: float, *, again: bool, tokens: int) -> bool:
        for index, entry in enumerate(self.entries):
            if index not in self._heard:
                entry.fail(_forgotten())
            elif not again:
                entry.fail(FlambeauError(ErrorKind.WORKER_DIED, WORKER_DIED, retry_after=1))
        staying = [entry for entry in self.entries if not entry.settled]
        self._batcher.ran(self, handler_seconds, finished=not staying)
        if not staying:
            return False  # the batcher gives the worker a new batch
        self._heard.clear()
        room = Room(self.slot.number, self.room(), joining=True)
        self.joined = self._batcher.take(room) if room.size else []
        for entry in self.joined:
            entry.on_left = self._left
        self.entries = staying + self.joined
        return True


def _forgotten() -> FlambeauError:
    return FlambeauError(ErrorKind.INTERNAL, "the worker gave no answer")
