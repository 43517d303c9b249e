"""The workers that one process forks, be it the zygote or a model's template."""

import socket
from collections.abc import Callable

from flambeau.ipc.channel import AsyncChannel, send_with_descriptor
from flambeau.ipc.framing import Message
from flambeau.ipc.messages import Exited, Fork, Forked
from flambeau.supervisor.launcher import LaunchedWorker, ProcessHandle


class Forks:
    """Asks a process for forks over its socket, and hears of their ends; they may outlive it.

    `parent` names that process in messages.
    """

    def __init__(self, parent: str) -> None:
        self._parent = parent
        self._socket: socket.socket | None = None
        self._disconnect: Callable[[], None] = lambda: None
        self._workers: dict[int, LaunchedWorker] = {}
        self._next = 0

    async def connect(
        self,
        sock: socket.socket,
        message_type: type[Message],
        on_message: Callable[[Message], None],
        on_closed: Callable[[], None],
    ) -> AsyncChannel[Message]:
        """Take over the socket of a new process. `Forked` and `Exited` are for `heard`."""
        self._socket = sock
        channel = await AsyncChannel.connect(sock.dup(), message_type, on_message, on_closed)
        self._disconnect = channel.close
        return channel

    def launch(
        self, sock: socket.socket, worker: LaunchedWorker, *, template: bool = False
    ) -> None:
        """Ask for a worker that talks over `sock`, which is closed on this side."""
        self._next += 1
        self._workers[self._next] = worker
        with sock:
            if self._socket is None:
                self._lose(self._next)
                return
            try:
                send_with_descriptor(self._socket, Fork(self._next, template), sock.fileno())
            except OSError:  # gone, or so busy that its buffer is full: the slot tries again
                self._lose(self._next)

    def heard(self, message: Forked | Exited) -> None:
        """The process tells of a worker."""
        if isinstance(message, Forked):
            worker = self._workers.get(message.worker)
            if worker is not None and not worker.started.done():
                worker.started.set_result(ProcessHandle(message.pid))
            return
        worker = self._workers.pop(message.worker, None)
        if worker is not None:
            worker.give_up(f"the {self._parent} could not fork: no memory, or too many processes")
            if not worker.exited.done():
                worker.exited.set_result(message.status)

    def close(self) -> None:
        """Close the socket, which ends the process."""
        self._close_socket()
        self._disconnect()

    def lose_all(self) -> None:
        """The process is gone: nobody will report its workers' ends any more."""
        self._close_socket()
        for number in list(self._workers):
            self._lose(number)

    def _close_socket(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _lose(self, number: int) -> None:
        """Nobody will report this worker's end any more: its own socket is the only sign left."""
        worker = self._workers.pop(number)
        worker.give_up(f"the {self._parent} died, or was too busy, before it forked")
        if not worker.exited.done():
            worker.exited.set_result(None)
