"""Accepts the connections of a TLS listener: each has its place before the handshake begins.

A loop's own server makes a protocol known when the handshake is done: until then clients that say
nothing would hold descriptors, and be counted by nobody.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable

from flambeau.frontend.connections import Connections
from flambeau.frontend.descriptors import is_scarce
from flambeau.frontend.http_connection import HttpConnection
from flambeau.protocols import limits

_AT_ONCE = 100
"""Connections accepted before the loop does something else."""

_PAUSE_SECONDS = 1.0
"""Until accepting is tried again where the system has no room for a connection."""


class TlsServer:
    """What uvicorn asks of a server, for a socket that is bound; needs a running loop.

    A client for which there is no room is closed before the handshake: an answer would cost one.
    """

    def __init__(
        self,
        sock: socket.socket,
        make_connection: Callable[[], HttpConnection],
        context: ssl.SSLContext,
        connections: Connections,
    ) -> None:
        self._socket = sock
        self._make_connection = make_connection
        self._context = context
        self._connections = connections
        self._shaking: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Accept no more, and end what has not shaken hands."""
        self._loop.remove_reader(self._socket)
        if self._pause is not None:
            self._pause.cancel()
        for task in self._shaking:
            task.cancel()

    async def wait_closed(self) -> None:
        """Until no handshake is left."""
        if self._shaking:
            await asyncio.wait(self._shaking)

    def _listen(self) -> None:
        self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                sock, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # the socket stays readable: the loop would turn for nothing
                self._loop.remove_reader(self._socket)
                self._pause = self._loop.call_later(_PAUSE_SECONDS, self._listen)
                return
            self._take(sock, (str(address[0]), int(address[1])))

    def _take(self, sock: socket.socket, client: tuple[str, int]) -> None:
        if is_scarce(sock.fileno()):
            sock.close()
            return
        connection = self._make_connection()
        if self._connections.admit(connection, client):
            self._connections.forget(connection)
            sock.close()
            return
        task = self._loop.create_task(self._shake_hands(sock, connection))
        self._shaking.add(task)
        task.add_done_callback(self._shaking.discard)

    async def _shake_hands(self, sock: socket.socket, connection: HttpConnection) -> None:
        try:
            with contextlib.suppress(OSError):  # OpenSSL's errors and the time limit, too
                await self._loop.connect_accepted_socket(
                    lambda: connection,
                    sock,
                    ssl=self._context,
                    ssl_handshake_timeout=limits.HANDSHAKE_SECONDS,
                )
        finally:
            transport: asyncio.Transport | None = connection.transport
            if transport is None:
                self._connections.forget(connection)
                sock.close()
