"""What a worker sends back for one batch."""

import threading

from flambeau.errors import ErrorKind, PredictionError
from flambeau.handlers.answers import Abandoned, Emit
from flambeau.handlers.runner import Runner
from flambeau.ipc.channel import BlockingChannel
from flambeau.ipc.framing import FramingError
from flambeau.ipc.messages import Done, Failed, Output, ToWorker
from flambeau.types import Chunk


class Withdrawn:
    """Batches for which nobody waits any more; written by the thread that reads the socket.

    Batches are numbered in the order in which they come, and one runs at a time, so only the newest
    number matters.
    """

    def __init__(self) -> None:
        self._newest = 0
        self._lock = threading.Lock()

    def add(self, batch: int) -> None:
        """Nobody waits for this batch."""
        with self._lock:
            self._newest = max(self._newest, batch)

    def __contains__(self, batch: int) -> bool:
        return self._newest == batch


def send_measured(channel: BlockingChannel[ToWorker], runner: Runner) -> None:
    """Send what the handler has reported since the last time."""
    if (record := runner.measured()) is not None:
        channel.send(record)


def finish(channel: BlockingChannel[ToWorker], runner: Runner, batch: int, seconds: float) -> None:
    """Say that a batch is finished, after its metrics."""
    send_measured(channel, runner)
    channel.send(Done(batch, seconds, runner.unusable))


def emitter(
    channel: BlockingChannel[ToWorker], runner: Runner, batch: int, withdrawn: Withdrawn
) -> Emit:
    """A function that sends chunks and errors of this batch.

    It raises `Abandoned` where more would follow and nobody waits for it.
    """

    def emit(index: int, result: Chunk | PredictionError) -> None:
        send_measured(channel, runner)  # before the answer: who has it finds its metrics
        if isinstance(result, PredictionError):
            failed = Failed(batch, index, result.kind, result.message, result.status)
            channel.send(failed)
            return
        if not result.last and batch in withdrawn:
            raise Abandoned
        try:
            channel.send(Output(batch, index, result))
        except FramingError as error:  # nothing was sent: the channel is whole
            text = f"The handler's answer is too large to be sent in one part: {error}."
            channel.send(Failed(batch, index, ErrorKind.HANDLER_FAILED, text))

    return emit
