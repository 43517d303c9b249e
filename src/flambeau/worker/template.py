"""A model's template: loads the built-in handler's model once, then forks workers that have it.

On a CPU, what the workers do not change they share: weights, and whatever was computed from them at
load. A worker that dies is replaced without loading anything.

Rules: only our own handler is loaded here, since users' may hold threads, sockets or devices that
no fork survives; it loads with one compute thread, as pools of threads do not survive one either;
it ends when the server's end of its socket closes, also while it loads. Workers outlive it.
"""

import contextlib
import functools
import gc
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

from flambeau.errors import LoadError
from flambeau.handlers.runner import NotShareableError, Runner
from flambeau.ipc.channel import BlockingChannel
from flambeau.ipc.messages import Fork, Load, LoadFailed, TemplateReady
from flambeau.worker.alone import live
from flambeau.worker.devices import prepare_compute
from flambeau.worker.forking import ForkServer
from flambeau.worker.lifeline import hold_lifeline
from flambeau.worker.loop import load_failed, work
from flambeau.worker.memory import limit_memory
from flambeau.worker.output import capture_output
from flambeau.worker.sandbox import confine, no_forks

_THREAD_SECONDS = 2.0
"""How long the threads of libraries may take to end once the model is loaded."""

_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""What keeps libraries from starting their pools; the first two are read when they are imported."""


def serve_template(control: socket.socket) -> int:
    """Load one model and fork its workers, over `control`; returns the exit code."""
    channel: BlockingChannel[Load] = BlockingChannel(control, Load)
    received = channel.receive_with_descriptor()
    if received is None:
        return 0
    load, lifeline = received
    if lifeline is not None:
        hold_lifeline(lifeline)
    limit_memory(load.memory_limit)
    loaded = _confined(channel, load)
    if not isinstance(loaded, Runner):
        channel.send(loaded)
        return 1
    gc.collect()
    gc.freeze()  # keeps the collector from writing into pages that workers share

    def become(_message: Fork, descriptor: int) -> NoReturn:
        no_forks(load)
        live(descriptor, functools.partial(work, prepared=loaded))

    ForkServer(control, become).serve(TemplateReady(shared=True))
    return 0


def _confined(channel: BlockingChannel[Load], load: Load) -> Runner | LoadFailed | TemplateReady:
    try:
        confine(load, channel.fileno(), forks=True)
    except LoadError as error:
        return load_failed(error)
    return _load(channel, load)


def _load(channel: BlockingChannel[Load], load: Load) -> Runner | LoadFailed | TemplateReady:
    """The loaded handler, or what there is to tell instead."""
    threads = _count_threads()
    with _ends_with_the_server(channel.fileno()), _one_thread():
        release_output = capture_output(channel)
        prepare_compute(1)
        try:
            runner = Runner.load(load, to_fork=True)
        except NotShareableError:
            return TemplateReady(shared=False)
        except (LoadError, MemoryError) as error:
            return load_failed(error)
        finally:
            release_output()
    return runner if _has_only(threads) else TemplateReady(shared=False)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    environment = os.environ  # noqa: TID251  # the libraries' only switches
    before = {name: environment[name] for name in _ONE_THREAD if name in environment}
    environment.update(_ONE_THREAD)
    try:
        yield
    finally:
        for name in _ONE_THREAD:
            del environment[name]
        environment.update(before)


@contextlib.contextmanager
def _ends_with_the_server(descriptor: int) -> Iterator[None]:
    """End this process at once where the peer of the socket `descriptor` closes it meanwhile."""
    stop_read, stop_write = os.pipe()

    def watch() -> None:
        poll = select.poll()
        poll.register(descriptor, 0)  # its hang-up alone, which is always told
        poll.register(stop_read, select.POLLIN)
        if stop_read not in {ready for ready, _ in poll.poll()}:
            os._exit(0)

    watcher = threading.Thread(target=watch, name="server", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        os.close(stop_write)  # a pipe without a writer is ready, too
        watcher.join()
        os.close(stop_read)


def _has_only(threads: int) -> bool:
    """Whether this process has no more threads than that, once those about to end have ended.

    Libraries load with threads of their own; one that stays would be missing in every worker.
    """
    deadline = time.monotonic() + _THREAD_SECONDS
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread.join(max(deadline - time.monotonic(), 0))
    waiting = threading.Event()
    while _count_threads() > threads and time.monotonic() < deadline:
        waiting.wait(0.002)  # nothing tells of the end of a native thread
    return threading.active_count() == 1 and _count_threads() <= threads


def _count_threads() -> int:
    """Native threads included, where the system tells."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()
