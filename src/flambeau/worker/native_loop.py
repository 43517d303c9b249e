"""The loop of a worker with a native handler: several batches at once, in micro-batches.

The main thread computes. One more thread takes what comes from the server, and tokenises a batch
while the one before it is still computed.
"""

import logging
import os
import queue
import threading
import time
from typing import TYPE_CHECKING

from flambeau.handlers.runner import Runner
from flambeau.ipc.channel import BlockingChannel
from flambeau.ipc.messages import Cancel, Ping, Pong, Run, Stop, ToWorker
from flambeau.worker.memory import end_without_memory
from flambeau.worker.replies import Replies

if TYPE_CHECKING:
    from flambeau.handlers.native_runs import NativeRun, NativeRuns

logger = logging.getLogger("flambeau.worker")

_DEVICE_LOST = 71
"""The exit code of a worker whose device is lost."""


class _Opened:
    """A batch that is ready to be computed, and what is sent for it."""

    def __init__(self, run: "NativeRun", replies: Replies, started: float) -> None:
        self.run = run
        self.replies = replies
        self.started = started


def serve_native(
    channel: BlockingChannel[ToWorker], runner: Runner, inbox: "queue.SimpleQueue[ToWorker]"
) -> None:
    """Answer batches until told to stop, or until an error leaves the device unusable.

    Does not return where several requests were open then: the process ends without their answers,
    and the server gives each of them to another worker, alone.
    """
    _NativeWorker(channel, runner).serve(inbox)


class _NativeWorker:
    def __init__(self, channel: BlockingChannel[ToWorker], runner: Runner) -> None:
        self._channel = channel
        self._runner = runner
        self._runs: NativeRuns = runner.pool()
        self._opened: queue.SimpleQueue[_Opened | Ping | Stop] = queue.SimpleQueue()
        self._running: list[_Opened] = []
        self._stopping = False

    def serve(self, inbox: "queue.SimpleQueue[ToWorker]") -> None:
        threading.Thread(target=self._prepare, args=(inbox,), name="tokenise", daemon=True).start()
        while not self._runner.unusable and (self._running or not self._stopping):
            self._receive()
            self._runs.step()
            self._send()
            if self._runs.device_lost:
                os._exit(_DEVICE_LOST)

    def _prepare(self, inbox: "queue.SimpleQueue[ToWorker]") -> None:
        try:
            self._open(inbox)
        except MemoryError:
            end_without_memory()
        except BaseException:
            logger.exception("The worker ends: it cannot take requests any more")
            os._exit(70)  # the main thread would wait for ever

    def _open(self, inbox: "queue.SimpleQueue[ToWorker]") -> None:
        """Take messages in their order; what a client has withdrawn is marked at once."""
        open_runs: dict[int, NativeRun] = {}
        while not isinstance(message := inbox.get(), Stop):
            if isinstance(message, Run):
                started = time.monotonic()
                replies = Replies(self._channel, self._runner, message.batch)
                run = self._runs.open(message.items, replies)
                open_runs = {batch: each for batch, each in open_runs.items() if not each.over}
                open_runs[message.batch] = run
                self._opened.put(_Opened(run, replies, started))
            elif isinstance(message, Cancel) and message.batch in open_runs:
                open_runs[message.batch].withdraw(message.items)
            elif isinstance(message, Ping):
                self._opened.put(message)
        self._opened.put(Stop())

    def _receive(self) -> None:
        """Take what has been opened; wait for something while there is nothing to compute."""
        while True:
            try:
                opened = self._opened.get(block=not self._running and not self._stopping)
            except queue.Empty:
                return
            if isinstance(opened, Stop):
                self._stopping = True
                continue
            if isinstance(opened, Ping):
                # What is computed at the moment is a better sign than an example.
                trouble = "" if self._running else self._runner.canary()
                self._channel.send(Pong(trouble))
                continue
            self._running.append(opened)
            self._runs.add(opened.run)

    def _send(self) -> None:
        over = self._runs.finished()
        for opened in list(self._running):
            if opened.run in over:
                self._running.remove(opened)
                opened.replies.tokens = opened.run.tokens
                opened.replies.pass_tokens = self._runner.budget()
                opened.replies.finish(time.monotonic() - opened.started)
            else:
                opened.replies.flush()
