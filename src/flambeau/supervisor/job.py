"""What a worker slot is given to run, as the slot sees it."""

from typing import Protocol

from flambeau.errors import FlambeauError
from flambeau.types import Chunk, InferenceRequest


class Job(Protocol):
    """A batch as a worker slot sees it; it hears of the outcome of each run exactly once."""

    @property
    def exclusive(self) -> bool:
        """Whether the worker may run nothing else meanwhile."""

    def items(self) -> list[InferenceRequest]:
        """What to predict."""

    def chunk(self, index: int, chunk: Chunk) -> None:
        """A part of item `index`'s answer."""

    def failed(self, index: int, error: FlambeauError) -> None:
        """Item `index` has no answer."""

    @property
    def tokens(self) -> int:
        """What it will probably cost, in tokens."""

    @property
    def bulk(self) -> bool:
        """Whether it yields to others in a worker that runs several at once."""

    def done(self, handler_seconds: float, *, again: bool, tokens: int) -> bool:
        """A run is over. True asks for another run, of what `items` is then; only if `again`.

        `tokens` is what it cost, 0 where nobody counts.
        """

    def ended_worker(self, *, company: bool) -> None:
        """The run that is over, as `done` tells next, has left the worker unusable."""

    def lost(self, error: FlambeauError, *, company: bool) -> bool:
        """The worker died under the batch, or was too slow. `company`: it ran others beside it.

        True where an input of the batch is taken for the cause, after more than one death.
        """
