"""What serves a model in one slot, and what it tells its owner."""

from collections.abc import Sequence
from typing import Protocol

from flambeau.errors import FlambeauError
from flambeau.ipc.messages import Done, Load, Loaded, Log, Measured
from flambeau.types import Chunk, InferenceRequest


class Events(Protocol):
    """What a worker process tells its owner."""

    def chunk(self, batch: int, index: int, chunk: Chunk) -> None:
        """A part of the answer to item `index` of a running batch."""

    def failed(self, batch: int, index: int, error: FlambeauError) -> None:
        """Item `index` of a running batch has no answer."""

    def done(self, record: Done) -> None:
        """A batch is finished."""

    def expired(self, batch: int) -> None:
        """A batch of an asynchronous worker took too long and is being cancelled."""

    def pong(self, trouble: str) -> None:
        """The answer to a ping; `trouble` is why the model does not run any more, else ""."""

    def closed(self) -> None:
        """The process takes no more batches; that it is gone follows."""

    def log(self, record: Log) -> None:
        """The handler logged or printed something."""

    def measured(self, record: Measured) -> None:
        """Metrics of the handler."""


class Worker(Protocol):
    """What serves a model in one slot: a process, or the ranks of one (`supervisor.ranks`)."""

    @property
    def pid(self) -> int:
        """The process id, -1 before the start."""

    @property
    def is_closed(self) -> bool:
        """Whether it takes no more batches."""

    @property
    def timed_out(self) -> bool:
        """Whether it was ended because it was silent for too long."""

    @property
    def out_of_memory(self) -> bool:
        """Whether it ended for want of memory; known once it is gone."""

    async def start(self, load: Load, seconds: float) -> Loaded:
        """Load the model within `seconds`. Raises `LoadError`."""

    @property
    def running(self) -> int:
        """How many batches it has not finished."""

    def run(self, items: list[InferenceRequest], timeout: float) -> int:
        """Send one batch; returns its number. `timeout` seconds without a sign end the worker."""

    def cancel(self, batch: int, items: Sequence[int] = ()) -> None:
        """Ask it to stop a batch, or these of its items, for which nobody waits any more."""

    def ping(self) -> None:
        """Ask it to show that it answers."""

    def stop(self) -> None:
        """Ask it to end once it is free."""

    def kill(self) -> None:
        """End it now."""

    async def wait(self) -> int | None:
        """Wait until it is gone; returns its exit code, minus the signal's number, or None."""
