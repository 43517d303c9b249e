"""One worker: receive, load, then receive, run, send, until told to stop.

Asynchronous handlers have a loop of their own, `flambeau.worker.async_loop`, and so has our native
one, `flambeau.worker.native_loop`.

Three threads: the main one runs handlers (users' code expects it), one reads the socket, one
forwards what the handler prints. When the server's end closes, the process ends at once, whatever
the handler is doing.
"""

import asyncio
import functools
import gc
import logging
import os
import queue
import socket
import threading
import time

from flambeau.errors import ErrorKind, LoadError
from flambeau.handlers.runner import Runner
from flambeau.ipc.channel import BlockingChannel
from flambeau.ipc.messages import (
    Cancel,
    Load,
    Loaded,
    LoadFailed,
    Ping,
    Pong,
    Run,
    Stop,
    ToWorker,
)
from flambeau.worker.async_loop import serve_async
from flambeau.worker.devices import prepare_compute
from flambeau.worker.lifeline import hold_lifeline
from flambeau.worker.memory import end_without_memory, limit_memory
from flambeau.worker.native_loop import serve_native
from flambeau.worker.output import capture_output
from flambeau.worker.replies import Replies, Withdrawn, send_measured
from flambeau.worker.sandbox import confine

logger = logging.getLogger("flambeau.worker")


def work(sock: socket.socket, prepared: Runner | None = None) -> int:
    """Serve one model over `sock`; returns the exit code. A template's fork has it `prepared`."""
    channel: BlockingChannel[ToWorker] = BlockingChannel(sock, ToWorker)  # type: ignore[arg-type]  # a union is no `type`
    received = channel.receive_with_descriptor()  # before there are threads: the sandbox binds one
    if received is None:
        return 0
    load, lifeline = received
    assert isinstance(load, Load), "the first message is Load"
    if prepared is None and not _confine(channel, load):
        return 1
    capture_output(channel)
    if lifeline is not None:
        hold_lifeline(lifeline)
    limit_memory(load.memory_limit)
    os.register_at_fork(after_in_child=functools.partial(_silence_child, channel))
    inbox: queue.SimpleQueue[ToWorker] = queue.SimpleQueue()
    withdrawn = Withdrawn()
    reader = threading.Thread(
        target=_read, args=(channel, inbox, withdrawn), name="ipc", daemon=True
    )
    reader.start()
    loop = asyncio.new_event_loop() if load.asynchronous else None
    if loop is not None:
        asyncio.set_event_loop(loop)  # handlers look for it while they load
    runner = _load(channel, load, prepared)
    if runner is None:
        return 1
    if loop is not None:
        loop.run_until_complete(serve_async(channel, runner, inbox))
        return 0
    if runner.pooled:
        serve_native(channel, runner, inbox)
        return 0
    _serve(channel, runner, inbox, withdrawn)
    return 0


def _serve(
    channel: BlockingChannel[ToWorker],
    runner: Runner,
    inbox: "queue.SimpleQueue[ToWorker]",
    withdrawn: Withdrawn,
) -> None:
    """Answer one batch after the other until told to stop."""
    while not runner.unusable and not isinstance(message := inbox.get(), Stop):
        if isinstance(message, Run):
            _answer(channel, runner, message, withdrawn)
        elif isinstance(message, Ping):
            channel.send(Pong())


def _confine(channel: BlockingChannel[ToWorker], load: Load) -> bool:
    """Whether this process is under the level that `load` asks for; else the server is told why."""
    try:
        confine(load, channel.fileno())
    except LoadError as error:
        channel.send(load_failed(error))
        return False
    return True


def _silence_child(channel: BlockingChannel[ToWorker]) -> None:
    """A process that the handler forks has no voice: two of them would mix up their messages.

    What it logs goes where it prints. One that comes back from the handler, as its parent does,
    ends with the first answer that it tries to send.
    """
    channel.mute()
    logging.getLogger().handlers[:] = [logging.StreamHandler()]


def _read(
    channel: BlockingChannel[ToWorker],
    inbox: "queue.SimpleQueue[ToWorker]",
    withdrawn: Withdrawn,
) -> None:
    try:
        for message in channel.receive():
            if isinstance(message, Cancel):
                withdrawn.add(message.batch)
            inbox.put(message)
    except MemoryError:
        end_without_memory()
    finally:
        os._exit(0)  # the server is gone, or talks nonsense: nobody waits for an answer


def _load(channel: BlockingChannel[ToWorker], load: Load, prepared: Runner | None) -> Runner | None:
    started = time.monotonic()
    prepare_compute(load.threads)
    try:
        runner = prepared or Runner.load(load)
        runner.context.compute_threads = load.threads  # a template had one
        runner.begin(load.threads)
    except (LoadError, MemoryError) as error:
        channel.send(load_failed(error))
        return None
    gc.freeze()  # weights live as long as the process: keep them out of every collection
    seconds = time.monotonic() - started
    send_measured(channel, runner)
    ahead = runner.budget() if runner.pooled and not load.asynchronous else 0
    level = load.sandbox + ("+net" if load.sandbox == "strict" and load.sandbox_net else "")
    info = {**runner.info, "sandbox": level}
    channel.send(Loaded(seconds, info, runner.default_batch_size or 0, ahead))
    return runner


def load_failed(error: LoadError | MemoryError) -> LoadFailed:
    """What is told of a model that could not be loaded."""
    if isinstance(error, LoadError):
        return LoadFailed(error.kind, error.message)
    return LoadFailed(ErrorKind.OUT_OF_MEMORY, "the model does not fit into memory")


def _answer(
    channel: BlockingChannel[ToWorker], runner: Runner, run: Run, withdrawn: Withdrawn
) -> None:
    started = time.monotonic()
    replies = Replies(channel, runner, run.batch, withdrawn)
    runner.context.withdrawn = functools.partial(withdrawn.__contains__, run.batch)
    runner.run(run.items, replies)
    replies.finish(time.monotonic() - started)
