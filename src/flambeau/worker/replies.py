"""What a worker sends back for one batch."""

import threading

from flambeau.errors import ErrorKind, PredictionError
from flambeau.handlers.answers import Abandoned
from flambeau.handlers.runner import Runner
from flambeau.ipc.channel import BlockingChannel
from flambeau.ipc.framing import FramingError
from flambeau.ipc.messages import Done, Failed, Output, ToWorker
from flambeau.types import Chunk

_HELD_BYTES = 64 * 1024
"""Bodies of more bytes than this are sent at once: the server would not read them in one go."""


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


class Replies:
    """What is sent for one batch. Called with a row's index, it sends a chunk or an error.

    Last chunks and errors are held back, unless they are large, and leave together with `Done`: who
    has an answer finds the worker free again and its batch in the metrics. An error in the middle
    of a stream leaves with the next chunk. `tokens` and `pass_tokens` go with `Done`.
    """

    def __init__(
        self,
        channel: BlockingChannel[ToWorker],
        runner: Runner,
        batch: int,
        withdrawn: Withdrawn | None = None,
    ) -> None:
        self._channel = channel
        self._runner = runner
        self._batch = batch
        self._withdrawn = withdrawn
        self._held: list[Output | Failed] = []
        self._held_bytes = 0
        self.tokens = self.pass_tokens = 0

    def __call__(self, index: int, result: Chunk | PredictionError) -> None:
        """Send, or hold back. Raises `Abandoned` where more would follow and nobody waits for it."""
        send_measured(
            self._channel, self._runner
        )  # before the answer: who has it finds its metrics
        if isinstance(result, PredictionError):
            failed = Failed(self._batch, index, result.kind, result.message, result.status)
            self._held.append(failed)
            return
        if not result.last and self._withdrawn is not None and self._batch in self._withdrawn:
            raise Abandoned
        self._held.append(Output(self._batch, index, result))
        self._held_bytes += len(result.body)
        if not result.last or self._held_bytes > _HELD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send what was held back, if anything was."""
        if self._held:
            self._send()

    def finish(self, seconds: float) -> None:
        """Say that the batch is finished, after its metrics."""
        send_measured(self._channel, self._runner)
        self._send(Done(self._batch, seconds, self._runner.unusable, self.tokens, self.pass_tokens))

    def _send(self, *last: Done) -> None:
        held, self._held, self._held_bytes = self._held, [], 0
        try:
            self._channel.send(*held, *last)
        except FramingError:  # nothing was sent: the channel is whole
            for message in held:
                self._send_alone(message)
            self._channel.send(*last)

    def _send_alone(self, message: Output | Failed) -> None:
        try:
            self._channel.send(message)
        except FramingError as error:
            text = f"The handler's answer is too large to be sent in one part: {error}."
            failed = Failed(message.batch, message.index, ErrorKind.HANDLER_FAILED, text)
            self._channel.send(failed)
