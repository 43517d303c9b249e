"""One HTTP connection: uvicorn's, with limits on the head of a request and errors in JSON.

uvicorn puts no bound on a request line and headers, nor on the time they take; a client could fill
the memory with them, or hold connections open for ever. A stop waits for answers, not for clients:
a connection whose request is not complete is closed at once. How long a body may stall is the
business of whoever reads it (`flambeau.protocols.http.read_body`).

What TorchServe passes and uvicorn does not: made-up methods, header names as the client spelled
them (`HEADER_NAMES` in the scope), reason phrases and statuses up to 999 of a handler's choice, and
bodies of requests that offer an upgrade, as Java's client does with HTTP/2: nothing is upgraded here.
"""

import asyncio
import re
import uuid
from functools import partial
from typing import TYPE_CHECKING, cast

import httptools
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from flambeau.errors import ErrorKind
from flambeau.frontend.http import CONNECTION, Listener
from flambeau.protocols.http import HEADER_NAMES, REASON
from flambeau.protocols.status import http_error, json_body

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application, ASGISendEvent

for _status in range(600, 1000):
    STATUS_LINE.setdefault(_status, b"HTTP/1.1 %d \r\n" % _status)

_PARSED_METHODS = frozenset(
    {b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"CONNECT"}
)
_METHOD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}) /")

MAX_HEAD_BYTES = 32 * 1024
"""Bytes of a request line and its headers (promises.md G19)."""

_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
"""Headers that say how long a body is."""

HEAD_SECONDS = 10.0
"""From its first byte, or the connection's begin, to the end of a request's headers.

The rest of a body that nobody reads, since its request is answered, has as long.
"""


GOODBYE_SECONDS = 1.0
"""How long a stop waits for TLS clients that have their answers to agree to the end."""


class _Cycle(RequestResponseCycle):
    """One request and its response, whose start may carry a reason phrase of the handler's.

    A stream to an HTTP/1.0 client has no chunks, which it would not understand: the connection's
    end is the stream's.
    """

    _until_close = False

    @override
    async def send(self, message: "ASGISendEvent") -> None:
        if self.scope["http_version"] == "1.0":
            self._without_chunks(cast("dict[str, object]", message))
        reason = cast("dict[str, bytes]", message).get(REASON)
        if not reason or self.response_started:
            await super().send(message)
            return
        transport = self.transport
        line = b"HTTP/1.1 %d %b\r\n" % (cast("dict[str, int]", message)["status"], reason)
        self.transport = cast("asyncio.Transport", _StatusLine(transport, line))
        try:
            await super().send(message)
        finally:
            self.transport = transport

    def _without_chunks(self, message: dict[str, object]) -> None:
        """Let uvicorn expect neither chunks nor a length, where a stream has none."""
        if self.response_started:
            if self._until_close:
                more = bool(message.get("more_body"))
                self.expected_content_length = len(cast("bytes", message.get("body", b""))) + more
            return
        headers = cast("list[tuple[bytes, bytes]]", message.get("headers", []))
        if all(name.lower() != b"content-length" for name, _ in headers):
            self._until_close = True
            self.chunked_encoding = False


class _StatusLine:
    """A transport for the head of one response: its first line is replaced."""

    def __init__(self, transport: asyncio.Transport, line: bytes) -> None:
        self._transport = transport
        self._line = line

    def write(self, data: bytes) -> None:
        self._transport.write(self._line + data.partition(b"\r\n")[2])


class HttpConnection(HttpToolsProtocol):
    """Parses requests and runs the application for each; made by `HttpServer`."""

    _names: list[bytes]
    _method = b""  # the request's own, where the parser was given another
    _head_bytes = 0
    _unfinished_bytes = 0
    _in_head = True
    _resuming = False  # whether a new parser is told of a head that was read already
    _begun = False  # whether a request's first byte has come, and not yet its last
    _late_from: float | None = None  # since when the client has owed us something
    _timer: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        self._late_from = self.loop.time()
        self._watch(HEAD_SECONDS)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        if self._in_head:
            if not self._begun:
                data = self._with_known_method(data)
            self._unfinished_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        if self._in_head and self._unfinished_bytes > MAX_HEAD_BYTES:
            self._refuse(431)
        if self.transport.is_closing() or not self._owes():
            self._late_from = None
        elif self._late_from is None:
            self._late_from = self.loop.time()
            if self._timer is None:
                self._watch(HEAD_SECONDS)

    def _parse(self, data: bytes) -> None:
        """Feed the parser. Where a head offers an upgrade it takes what follows for another protocol;
        a parser in its place reads on. Raises `HttpParserError`."""
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if self.scope["method"] == "CONNECT":
                    return  # not HTTP either way
                data = data[upgrade.args[0] :]
                self._read_on()
            else:
                return

    def _read_on(self) -> None:
        """Put a new parser where the head of the current request ends."""
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
        framing = self._framing()
        if framing:
            lines = b"".join(b"%s: %s\r\n" % header for header in framing)
            self._resuming = True
            try:
                self.parser.feed_data(b"POST / HTTP/1.1\r\n" + lines + b"\r\n")
            finally:
                self._resuming = False

    def _framing(self) -> list[tuple[bytes, bytes]]:
        return [header for header in self.headers if header[0] in _FRAMING]

    @override
    def shutdown(self) -> None:
        """The server stops: an incomplete request is not waited for."""
        if self._in_head or self.pipeline:
            super().shutdown()  # at once where nothing is being answered
        else:
            self.transport.close()  # whoever reads the body is told that the client left
        if self.scheme == "https" and self.transport.is_closing():
            # TLS waits half a minute for the client to say goodbye too, and idle ones do not.
            self.loop.call_later(GOODBYE_SECONDS, self.transport.abort)

    @override
    def on_message_begin(self) -> None:
        if self._resuming:
            return
        super().on_message_begin()
        self._late_from = None
        self._begun = True
        self._in_head = True
        self._head_bytes = 0
        self._names = []
        self.scope["extensions"] = {HEADER_NAMES: self._names}  # type: ignore[dict-item]  # one of ours

    @override
    def on_url(self, url: bytes) -> None:
        if self._resuming:
            return
        super().on_url(url)
        self._count(len(url))

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        if self._resuming:
            return
        super().on_header(name, value)
        self._names.append(name)
        self._count(len(name) + len(value))

    @override
    def on_headers_complete(self) -> None:
        if self._resuming:
            return
        self._in_head = False
        self._unfinished_bytes = 0
        super().on_headers_complete()
        if self._method:
            self.scope["method"] = self._method.decode()
            self._method = b""
        # This is before the application's first step.
        going_on = partial(self._connection_header, self.cycle)
        self.scope["extensions"][CONNECTION] = going_on  # type: ignore[assignment]  # ours

    @override
    def _start_asgi_task(self, cycle: RequestResponseCycle, app: "ASGI3Application") -> None:
        cycle.__class__ = _Cycle  # uvicorn names its class where it makes the object
        super()._start_asgi_task(cycle, app)

    @override
    def on_message_complete(self) -> None:
        if self.parser.should_upgrade() and self.scope["method"] != "CONNECT" and self._framing():
            return  # its body is still to come: `_read_on`
        super().on_message_complete()
        self._in_head = True
        self._begun = False

    @override
    def send_400_response(self, msg: str) -> None:
        """Called for whatever the parser or a callback above refuses."""
        self._refuse(431 if self._head_bytes > MAX_HEAD_BYTES else 400)

    def _with_known_method(self, data: bytes) -> bytes:
        """The begin of a request with a method that the parser knows; the real one is kept.

        Only at the begin of what was received: a made-up method in a pipeline is refused.
        """
        match = _METHOD.match(data)
        if match is None or match.group(1) in _PARSED_METHODS:
            return data
        self._method = match.group(1)
        return b"POST" + data[match.end(1) :]

    def _connection_header(self, cycle: RequestResponseCycle, status: int) -> bytes:
        """Whether the connection goes on as the client asked; after an error it ends.

        An error does not end it before the request is read, though, nor while the client waits for
        answers to later requests: closing under a client that sends resets the connection, and loses
        the answer. Empty where uvicorn adds the header itself.
        """
        if not cycle.keep_alive:
            return b""
        ends = status >= 400 and not cycle.more_body and not self.pipeline
        return b"close" if ends else b"keep-alive"

    def _owes(self) -> bool:
        """Whether the client has begun a head, or has not finished a body that nobody reads."""
        if self._in_head:
            return self._begun or self._unfinished_bytes > 0
        return bool(self.cycle.response_complete)

    def _watch(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._check_late)

    def _check_late(self) -> None:
        """The connection's only timer; it runs while something is owed, and looks at the clock."""
        self._timer = None
        if self._late_from is None or self.transport.is_closing():
            return
        cycle = cast("RequestResponseCycle | None", self.cycle)  # None before the first request
        answering = cycle is not None and not cycle.response_complete
        if answering or self.flow.read_paused:
            self._late_from = self.loop.time()  # we keep the client waiting, not it us
        left = self._late_from + HEAD_SECONDS - self.loop.time()
        if left > 0:
            self._watch(left)
        elif self._in_head and self._owes():
            self._refuse(408)
        else:
            self.transport.close()

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError("too large")  # the parser stops, and `send_400_response` answers

    def _refuse(self, status: int) -> None:
        if self.transport.is_closing():
            return
        kind, message = ErrorKind.INVALID_INPUT, "Invalid HTTP message."
        if status == 431:
            message = f"The request line and headers are larger than {MAX_HEAD_BYTES} bytes."
        if status == 408:
            kind = ErrorKind.REQUEST_TIMEOUT
            message = f"The request's headers were not complete after {HEAD_SECONDS:g} s."
        body = json_body({"code": status, "type": http_error(kind).type, "message": message})
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        cast("Listener", self.config.app).headers.add_to(headers, str(uuid.uuid4()))
        headers.append((b"connection", b"close"))
        head = b"".join(b"%s: %s\r\n" % pair for pair in headers)
        self.transport.write(STATUS_LINE[status] + head + b"\r\n" + body)
        self.transport.close()
