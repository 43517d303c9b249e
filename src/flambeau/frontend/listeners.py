"""Sockets and their HTTP servers: bound before anything else starts, closed before anything stops."""

import contextlib
import os
import socket
import ssl
import stat
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path

import msgspec
import uvicorn
from typing_extensions import override

from flambeau.config import Address
from flambeau.errors import ConfigError
from flambeau.frontend.handshakes import TlsServer
from flambeau.frontend.http import Listener
from flambeau.frontend.http_connection import HttpConnection

_BACKLOG = 2048


def bind(key: str, address: Address, *, share: bool = False) -> socket.socket:
    """Bind a listener. Raises `ConfigError` naming the configuration key and the address."""
    try:
        return _bind_path(address.path) if address.path else _bind_port(address, share=share)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            f"Failed to bind to address: {address} ({key}): {reason}. Stop what listens there, or"
            f" set {key} in config.properties (or the matching flag) to another address."
        ) from error


def bind_shared(key: str, address: Address, count: int) -> list[socket.socket]:
    """Bind a port for `count` processes: connections are spread over that many sockets.

    The first socket is bound alone: a port that another server shares is in use, too. Raises
    `ConfigError` as `bind` does.
    """
    with bind(key, address) as probe:
        port = int(probe.getsockname()[1])
    shared = msgspec.structs.replace(address, port=port)
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(bind(key, shared, share=True)) for _ in range(count)]
        stack.pop_all()  # nothing failed: they stay open
    return sockets


def _bind_port(address: Address, *, share: bool) -> socket.socket:
    family, kind, protocol, _, target = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(target)
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _bind_path(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(Path(path).stat().st_mode) and not _answers(path):
                Path(path).unlink()  # left behind by a server that was killed
        sock.bind(path)
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(path) == 0


class HttpServer(uvicorn.Server):
    """uvicorn for one bound socket; signals are the composition root's business."""

    def __init__(
        self, app: Listener, sock: socket.socket, grace: float, tls: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=HttpConnection,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=True,
                proxy_headers=False,
                ws="none",
                ssl_context_factory=(lambda *_: tls) if tls is not None else None,
                timeout_graceful_shutdown=round(grace),
            )
        )
        self.on_serving: Callable[[], None] = lambda: None
        self._bound = sock
        self._listener = app

    @override
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections; over TLS they are counted from before the handshake."""
        if self.config.ssl is None:
            await super().startup(sockets)
        else:
            self._startup_tls(self.config.ssl)
        self.on_serving()

    def _startup_tls(self, context: ssl.SSLContext) -> None:
        make_connection = partial(
            HttpConnection,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        listening = TlsServer(self._bound, make_connection, context, self._listener.connections)
        self.servers = [listening]  # type: ignore[list-item]  # uvicorn names asyncio's own class
        self.started = True

    async def run_until_told(self) -> None:
        """Serve until `stop` was called and open requests are answered."""
        path = self._bound.getsockname() if self._bound.family == socket.AF_UNIX else ""
        try:
            await self.serve(sockets=[self._bound])
        finally:
            if path:
                with contextlib.suppress(OSError):
                    os.unlink(path)  # at the end of the loop's life

    def leave(self) -> None:
        """Tell clients to go elsewhere: each connection ends with its next answer."""
        self._listener.leaving = True

    def stop(self) -> None:
        """Close the listener; requests in flight are finished."""
        self.should_exit = True

    def kill(self) -> None:
        """Wait for nothing any more."""
        self.force_exit = True
