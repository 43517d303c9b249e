"""One worker: receive, load, then receive, run, send, until told to stop.

Three threads: the main one runs handlers (users' code expects it), one reads the socket, one
forwards what the handler prints. When the server's end closes, the process ends at once, whatever
the handler is doing.
"""

import gc
import logging
import os
import queue
import socket
import threading
import time

from flambeau.errors import ErrorKind, LoadError, PredictionError
from flambeau.handlers.runner import Runner
from flambeau.ipc.channel import BlockingChannel
from flambeau.ipc.framing import FramingError
from flambeau.ipc.messages import (
    Done,
    Failed,
    Load,
    Loaded,
    LoadFailed,
    Output,
    Run,
    Stop,
    ToWorker,
)
from flambeau.types import Chunk
from flambeau.worker.devices import prepare_compute
from flambeau.worker.output import capture_output

logger = logging.getLogger("flambeau.worker")


def work(sock: socket.socket) -> int:
    """Serve one model over `sock`; returns the exit code."""
    channel: BlockingChannel[ToWorker] = BlockingChannel(sock, ToWorker)  # type: ignore[arg-type]  # a union is no `type`
    capture_output(channel)
    inbox: queue.SimpleQueue[ToWorker] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(channel, inbox), name="ipc", daemon=True).start()
    load = inbox.get()
    assert isinstance(load, Load), "the first message is Load"
    runner = _load(channel, load)
    if runner is None:
        return 1
    while not isinstance(message := inbox.get(), Stop):
        assert isinstance(message, Run)
        _answer(channel, runner, message)
    return 0


def _read(channel: BlockingChannel[ToWorker], inbox: "queue.SimpleQueue[ToWorker]") -> None:
    try:
        for message in channel.receive():
            inbox.put(message)
    finally:
        os._exit(0)  # the server is gone, or talks nonsense: nobody waits for an answer


def _load(channel: BlockingChannel[ToWorker], load: Load) -> Runner | None:
    started = time.monotonic()
    prepare_compute(load.threads)
    try:
        runner = Runner.load(load)
    except LoadError as error:
        channel.send(LoadFailed(error.kind, error.message))
        return None
    except MemoryError:
        channel.send(LoadFailed(ErrorKind.OUT_OF_MEMORY, "the model does not fit into memory"))
        return None
    gc.freeze()  # weights live as long as the process: keep them out of every collection
    seconds = time.monotonic() - started
    _send_measured(channel, runner)
    channel.send(Loaded(seconds, runner.info, runner.default_batch_size or 0))
    return runner


def _answer(channel: BlockingChannel[ToWorker], runner: Runner, run: Run) -> None:
    def emit(index: int, result: Chunk | PredictionError) -> None:
        _send_measured(channel, runner)  # before the answer: who has it finds its metrics
        if isinstance(result, PredictionError):
            failed = Failed(run.batch, index, result.kind, result.message, result.status)
            channel.send(failed)
            return
        try:
            channel.send(Output(run.batch, index, result))
        except FramingError as error:  # nothing was sent: the channel is whole
            text = f"The handler's answer is too large to be sent in one part: {error}."
            channel.send(Failed(run.batch, index, ErrorKind.HANDLER_FAILED, text))

    started = time.monotonic()
    runner.run(run.items, emit)
    seconds = time.monotonic() - started
    _send_measured(channel, runner)
    channel.send(Done(run.batch, seconds))


def _send_measured(channel: BlockingChannel[ToWorker], runner: Runner) -> None:
    if (record := runner.measured()) is not None:
        channel.send(record)
