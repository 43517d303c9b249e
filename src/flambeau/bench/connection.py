"""One HTTP/1.1 connection of the load: a request at a time, as little work as possible.

Measured with 8 clients against a bare uvloop server on the same 2 cores: httpx's asynchronous client
spends 2,000 µs of CPU on a request, this 24. The client often shares the machine with the server
that it measures, so that matters.
"""

import asyncio
import ssl
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import httptools
from typing_extensions import override

from flambeau.errors import ConfigError

_FINAL_STATUS = 200
_PORTS = {"http": 80, "https": 443}


class Target(NamedTuple):
    """Where the requests go. `head` is the request line and headers up to the content's length."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    head: bytes

    def request(self, body: bytes) -> bytes:
        """The bytes of a whole request."""
        return self.head + b"content-length: %d\r\n\r\n" % len(body) + body


class Answer(NamedTuple):
    """A status, the number of bytes that came with it, and the body if it was asked for."""

    status: int
    size: int
    body: bytes


def target_of(url: str, headers: dict[str, str]) -> Target:
    """Where `url` leads to. Raises `ConfigError` for one that is no address of an HTTP server."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{url!r} is no address that begins with http:// or https://.") from error
    if not parts.hostname:
        raise ConfigError(f"{url!r} names no host.")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    host = parts.netloc.rpartition("@")[2]
    sent = {"host": host, "accept": "*/*", "user-agent": "flambeau-bench"} | headers
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items()), ""]
    if any(character in line for line in lines for character in "\r\n"):
        raise ConfigError("An address or a header must not contain a line break.")
    try:
        head = "\r\n".join(lines).encode("latin-1")
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"The address {url!r} or a header has characters that HTTP cannot carry: percent-encode"
            " them."
        ) from error
    return Target(
        parts.hostname,
        port,
        ssl.create_default_context() if parts.scheme == "https" else None,
        head,
    )


class Connection(asyncio.Protocol):
    """A connection that may be used again; `open` says whether it is there at all."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[Answer] | None = None
        self._size = 0
        self._started = False
        self._length_known = False
        self._until_closed = False
        self._body: list[bytes] | None = None

    @property
    def open(self) -> bool:
        """Whether a request can be sent."""
        return self._transport is not None

    async def exchange(
        self, target: Target, request: bytes, seconds: float, *, keep_body: bool = False
    ) -> Answer:
        """Send a request and wait for its whole answer; connects where there is no connection.

        A connection that the server closed while it lay idle is replaced by a new one, once. Raises
        `TimeoutError` after `seconds`, `OSError` where the server is not reached or hangs up, and
        `httptools.HttpParserError` where the answer is not HTTP.
        """
        self._body = [] if keep_body else None
        reused = self.open
        try:
            async with asyncio.timeout(seconds):
                try:
                    return await self._send(target, request)
                except ConnectionError:
                    if not reused or self._started:
                        raise
                return await self._send(target, request)
        except BaseException:
            self.close()
            raise

    async def _send(self, target: Target, request: bytes) -> Answer:
        self._size, self._started, self._until_closed = 0, False, False
        if self._transport is None:
            self._parser = httptools.HttpResponseParser(self)
            await self._loop.create_connection(
                lambda: self, target.host, target.port, ssl=target.tls
            )
        assert self._transport is not None
        self._answer = self._loop.create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    @override
    def data_received(self, data: bytes) -> None:
        self._started = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.close()
            self._fail(error)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._until_closed and exc is None:
            self._finish()
        self._fail(ConnectionResetError("the server hung up"))

    def on_message_begin(self) -> None:
        """Called by the parser."""
        self._length_known = False

    def on_header(self, name: bytes, _value: bytes) -> None:
        """Called by the parser."""
        if name.lower() in {b"content-length", b"transfer-encoding"}:
            self._length_known = True

    def on_headers_complete(self) -> None:
        """Called by the parser: an answer of unknown length ends with the connection."""
        self._until_closed = not self._length_known

    def on_body(self, data: bytes) -> None:
        """Called by the parser."""
        self._size += len(data)
        if self._body is not None:
            self._body.append(data)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        if self._parser.get_status_code() < _FINAL_STATUS:
            return
        if not self._parser.should_keep_alive():
            self.close()
        self._finish()

    def _finish(self) -> None:
        answer = Answer(self._parser.get_status_code(), self._size, b"".join(self._body or ()))
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)


def describe(error: Exception) -> str:
    """A failure in two words, to count it by."""
    kinds: tuple[tuple[Any, str], ...] = (
        (TimeoutError, "time-out"),
        (ConnectionRefusedError, "connection refused"),
        (ConnectionError, "connection closed"),
        (ssl.SSLError, "TLS failed"),
        (OSError, "not reached"),
        (httptools.HttpParserError, "not HTTP"),
    )
    return next(text for kind, text in kinds if isinstance(error, kind))
