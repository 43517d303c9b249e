"""One request over HTTP and its response: what ASGI's `receive` and `send` do, and a little more.

A response's head leaves together with the first part of its body, in one write. What every response
carries is added here, once: request id, date, cache headers, cross-origin headers, `Connection`. A
stream to an HTTP/1.0 client has no chunks, which it would not understand: the connection's end is
the stream's.

Beside ASGI (`flambeau.protocols.http.Exchange`) an endpoint can take a body that is here already
without waiting, and be called back when the client leaves: no task has to watch for that.
"""

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.types import Message
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from flambeau.protocols.http import NO_BODY, REASON

if TYPE_CHECKING:
    import asyncio

    from flambeau.frontend.http_connection import HttpConnection

for _status in range(600, 1000):
    STATUS_LINE.setdefault(_status, b"HTTP/1.1 %d \r\n" % _status)

HIGH_WATER_BYTES = 64 * 1024
"""Of a body that nobody has read yet, before reading from the client pauses."""

_JOINED_BYTES = 64 * 1024
"""A larger part of a body is not copied to stand behind its head."""

_IDS_AT_ONCE = 256


class Exchange:
    """One request, and its response. `status` is 0 until the response begins.

    It is in its scope, and does not hold it: no cycle, so that bodies are freed at once.
    """

    __slots__ = (
        "_connection",
        "_expects_continue",
        "_head",
        "_http_version",
        "_left",
        "_method",
        "_news",
        "_parts",
        "_remaining",
        "_unread",
        "_waiter",
        "chunked",
        "disconnected",
        "ends_connection",
        "goes_on_after_error",
        "keep_alive",
        "more_body",
        "request_id",
        "response_complete",
        "started",
        "status",
        "task",
    )

    def __init__(
        self,
        connection: "HttpConnection",
        method: str,
        http_version: str,
        *,
        keep_alive: bool,
        expects_continue: bool,
    ) -> None:
        self.keep_alive = keep_alive
        self.request_id = new_request_id()
        self.started = time.monotonic()
        self.status = 0
        self.task: asyncio.Task[None] | None = None
        self.ends_connection = self.goes_on_after_error = False
        self.disconnected = False
        self.more_body = True
        self.response_complete = False
        self.chunked = False
        self._connection = connection
        self._method = method
        self._http_version = http_version
        self._expects_continue = expects_continue
        self._parts: list[bytes] = []
        self._unread = 0
        self._news = False
        self._waiter: asyncio.Future[None] | None = None
        self._left: Callable[[], None] | None = None
        self._head = b""
        self._remaining = 0  # bytes of the body that its length promises; -1: it has none

    # what the connection tells

    def add_body(self, part: bytes) -> None:
        """A part of the body has come."""
        self._parts.append(part)
        self._unread += len(part)
        if self._unread > HIGH_WATER_BYTES:
            self._connection.flow.pause_reading()
        self._wake()

    def end_body(self) -> None:
        """The body is complete."""
        self.more_body = False
        self._wake()

    def leave(self) -> None:
        """The connection is lost."""
        if self.response_complete:
            return
        self.disconnected = True
        self._wake()
        if self._left is not None:
            self._left()

    # what an endpoint asks for

    def on_left(self, call: Callable[[], None]) -> None:
        """Call back where the client leaves before its answer is complete."""
        if self.disconnected:
            call()
        self._left = call

    def take_body(self) -> bytes | None:
        """The body, if it is here as a whole and nobody has read any of it; else None."""
        if self.more_body or self._expects_continue or self.disconnected:
            return None
        self._connection.read_on()
        return self._take()

    async def receive(self) -> Message:
        """ASGI's `receive`: parts of the body, then a wait for the end."""
        if self._expects_continue and not self._connection.transport.is_closing():
            self._connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._expects_continue = False
        if not self.disconnected and not self.response_complete:
            self._connection.read_on()
            if not self._news:
                self._waiter = self._connection.loop.create_future()
                await self._waiter
        self._news = False
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": self._take(), "more_body": self.more_body}

    async def send(self, message: Message) -> None:
        """ASGI's `send`: the head, then parts of the body."""
        flow = self._connection.flow
        if flow.write_paused and not self.disconnected:
            await flow.drain()
        if message["type"] == "http.response.start":
            self._begin(message)
        elif not self.disconnected:
            self._write(message.get("body", b""), bool(message.get("more_body")))

    def _begin(self, message: Message) -> None:
        status: int = message["status"]
        headers: list[tuple[bytes, bytes]] = message["headers"]
        if self.status:
            raise RuntimeError("the response has begun already")
        self.status = status
        reason: bytes = message.get(REASON, b"")
        line = b"HTTP/1.1 %d %b\r\n" % (status, reason) if reason else STATUS_LINE[status]
        parts = [line, self._connection.common_headers(headers)]
        self._remaining = -1
        for name, value in headers:
            if name == b"content-length":
                self._remaining = int(value)
            parts += (name, b": ", value, b"\r\n")
        parts += (b"x-request-id: ", self.request_id.encode(), b"\r\n")
        if self._method == "HEAD" or status in NO_BODY:
            self._remaining = 0
        elif self._remaining < 0 and self._http_version != "1.0":
            self.chunked = True
            parts.append(b"transfer-encoding: chunked\r\n")
        if self._goes_on():
            parts.append(b"connection: keep-alive\r\n\r\n")
        else:
            parts.append(b"connection: close\r\n\r\n")
        self._head = b"".join(parts)

    def _goes_on(self) -> bool:
        """Whether the connection goes on as the client asked; after an error it ends, and in a stop.

        Neither does end it before the request is read, though, nor while the client waits for
        answers to later requests: closing under a client that sends resets the connection, and
        loses the answer.
        """
        error = self.status >= 400 and not self.goes_on_after_error
        ends = error or self._connection.listener.leaving
        whole = not self.more_body and not self._connection.pipeline
        if (ends and whole) or self.ends_connection:
            self.keep_alive = False
        return self.keep_alive

    def _write(self, body: bytes, more: bool) -> None:
        if not self.status or self.response_complete:
            raise RuntimeError("a part of a body comes before its head, or after its end")
        transport = self._connection.transport
        head, self._head = self._head, b""
        if self._method == "HEAD":
            body = b""
        elif self.chunked:
            body = _chunk(body, more=more)
        elif self._remaining >= 0:
            self._remaining -= len(body)
            if self._remaining < 0 or (self._remaining and not more):
                raise RuntimeError("the body is longer or shorter than its Content-Length")
        if head and len(body) <= _JOINED_BYTES:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)
        if not more:
            self.response_complete = True
            self._left = None
            self._wake()
            if not self.keep_alive:
                transport.close()
            self._connection.answered()

    def _take(self) -> bytes:
        parts, self._parts, self._unread = self._parts, [], 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _wake(self) -> None:
        self._news = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _chunk(body: bytes, *, more: bool) -> bytes:
    """A part of a body in chunked encoding, with the end after the last one."""
    end = b"" if more else b"0\r\n\r\n"
    return b"%x\r\n%b\r\n%b" % (len(body), body, end) if body else end


_id_bits: list[str] = []
"""Of the next request ids: one call of the system for many."""


def new_request_id() -> str:
    """A random id in a UUID's form (version 4)."""
    if not _id_bits:
        bits = os.urandom(16 * _IDS_AT_ONCE).hex()
        _id_bits.extend(bits[at : at + 32] for at in range(0, len(bits), 32))
    text = _id_bits.pop()
    variant = "89ab"[int(text[16], 16) & 3]
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{variant}{text[17:20]}-{text[20:]}"
