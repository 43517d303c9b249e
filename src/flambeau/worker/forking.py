"""Forks on request: what the zygote and a model's template have in common.

Rule: a process that forks has one thread then, so that a fork copies no held lock.
"""

import contextlib
import errno
import os
import selectors
import shutil
import signal
import socket
from collections.abc import Callable
from typing import NoReturn

import msgspec

from flambeau.config import private_folder
from flambeau.ipc.channel import BlockingChannel
from flambeau.ipc.messages import Exited, Fork, Forked


class ForkServer:
    """Forks for whoever holds the other end of `control`, and reports the ends of its children.

    `become` is called in each child, with the request and the descriptor that came with it.
    """

    def __init__(self, control: socket.socket, become: Callable[[Fork, int], NoReturn]) -> None:
        self._control = control
        self._channel: BlockingChannel[Fork] = BlockingChannel(control, Fork)
        self._become = become
        self._workers: dict[int, int] = {}  # pid -> worker id

    def serve(self, ready: msgspec.Struct) -> None:
        """Say `ready`, then fork on request until the server is gone."""
        wake_read, wake_write = socket.socketpair()
        for end in (wake_read, wake_write):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        try:
            self._channel.send(ready)
            with selectors.DefaultSelector() as selector:
                selector.register(self._control, selectors.EVENT_READ)
                selector.register(wake_read, selectors.EVENT_READ)
                while self._step(selector, wake_read, wake_write):
                    pass
        except ConnectionError:
            pass  # the server is gone; so are its workers, by the same sign
        finally:  # workers that end from now on wake nobody: the sockets are about to be closed
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            wake_read.close()
            wake_write.close()

    def _step(self, selector: selectors.BaseSelector, *wake: socket.socket) -> bool:
        ready = {key.fileobj for key, _ in selector.select()}
        if wake[0] in ready:
            wake[0].recv(4096)
            self._reap()
        if self._control in ready:
            received = self._channel.receive_with_descriptor()
            if received is None:
                return False
            message, descriptor = received
            assert descriptor is not None, "a Fork message carries the worker's socket"
            self._fork(message, descriptor, selector, *wake)
        return True

    def _fork(
        self,
        message: Fork,
        descriptor: int,
        selector: selectors.BaseSelector,
        *wake: socket.socket,
    ) -> None:
        try:
            pid = os.fork()
        except OSError as error:  # no memory, or too many processes
            os.close(descriptor)
            self._channel.send(Exited(message.worker, -1, -(error.errno or errno.EAGAIN)))
            return
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            selector.close()
            for sock in (self._control, *wake):
                sock.close()
            self._become(message, descriptor)  # never back into this loop
        os.close(descriptor)
        self._workers[pid] = message.worker
        self._channel.send(Forked(message.worker, pid))

    def _reap(self) -> None:
        while self._workers:
            try:
                dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if dead is None:
                return
            pid = dead.si_pid
            if os.getpgid(pid) == pid:  # while nobody else can have the number
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)  # what the handler has started ends with it
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            shutil.rmtree(private_folder(pid), ignore_errors=True)
            worker = self._workers.pop(pid, None)
            if worker is not None:
                self._channel.send(Exited(worker, pid, code))
