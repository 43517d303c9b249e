"""The zygote: imports the frameworks once, then forks a worker in milliseconds when asked.

Rules: it runs one thread only, so a fork copies no held lock; it never touches an accelerator,
since a forked CUDA context cannot be used; it holds no model and no user's code. It exits when the
server's end of the control socket closes.
"""

import errno
import gc
import importlib
import logging
import os
import selectors
import signal
import socket
from typing import NoReturn

from flambeau.ipc.channel import BlockingChannel
from flambeau.ipc.messages import Exited, Fork, Forked, ZygoteReady
from flambeau.worker.alone import live
from flambeau.worker.devices import count_gpus, framework_versions

logger = logging.getLogger("flambeau.worker")


class Zygote:
    """Parent of all workers."""

    def __init__(self, control: socket.socket, preload: list[str]) -> None:
        self._control = control
        self._channel: BlockingChannel[Fork] = BlockingChannel(control, Fork)
        self._preload = preload
        self._workers: dict[int, int] = {}  # pid -> worker id

    def serve(self) -> int:
        """Fork on request and report ends until the server is gone."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to handle
        wake_read, wake_write = socket.socketpair()
        for end in (wake_read, wake_write):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        for name in self._preload:
            self._import(name)
        gc.collect()
        gc.freeze()  # keeps the collector from writing into pages that workers share
        try:
            self._channel.send(ZygoteReady(os.getpid(), count_gpus(), framework_versions()))
            with selectors.DefaultSelector() as selector:
                selector.register(self._control, selectors.EVENT_READ)
                selector.register(wake_read, selectors.EVENT_READ)
                while self._step(selector, wake_read):
                    pass
        except ConnectionError:
            pass  # the server is gone; so are its workers, by the same sign
        finally:  # workers that end from now on wake nobody: the sockets are about to be closed
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            wake_read.close()
            wake_write.close()
        return 0

    @staticmethod
    def _import(name: str) -> None:
        try:
            importlib.import_module(name)
        except Exception:
            # A worker that needs it meets the same error, and can tell whoever loads the model.
            logger.exception("%s cannot be imported ahead of time", name)

    def _step(self, selector: selectors.BaseSelector, wake: socket.socket) -> bool:
        ready = {key.fileobj for key, _ in selector.select()}
        if wake in ready:
            wake.recv(4096)
            self._reap()
        if self._control in ready:
            received = self._channel.receive_with_descriptor()
            if received is None:
                return False
            message, descriptor = received
            assert descriptor is not None, "a Fork message carries the worker's socket"
            self._fork(message.worker, descriptor, wake)
        return True

    def _fork(self, worker: int, descriptor: int, wake: socket.socket) -> None:
        try:
            pid = os.fork()
        except OSError as error:  # no memory, or too many processes
            os.close(descriptor)
            self._channel.send(Exited(worker, -1, -(error.errno or errno.EAGAIN)))
            return
        if pid == 0:
            self._become_worker(descriptor, wake)
        os.close(descriptor)
        self._workers[pid] = worker
        self._channel.send(Forked(worker, pid))

    def _become_worker(self, descriptor: int, wake: socket.socket) -> NoReturn:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._control.close()
        wake.close()
        live(descriptor)  # never back into the zygote's loop

    def _reap(self) -> None:
        while self._workers:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            worker = self._workers.pop(pid, None)
            if worker is not None:
                self._channel.send(Exited(worker, pid, code))
