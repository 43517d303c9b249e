"""One HTTP connection: requests parsed within limits, and run one after the other.

uvicorn's server, with a protocol of our own: uvicorn's puts no bound on a request line and headers,
nor on the time they take, and costs several times as much a request. A stop waits for answers, not
for clients: a connection whose request is not complete is closed at once. How long a body may stall
is the business of whoever reads it (`flambeau.protocols.http.read_body`).

What TorchServe passes is passed: made-up methods, header names as the client spelled them, and bodies
of requests that offer an upgrade, as Java's client does with HTTP/2: nothing is upgraded here.
"""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, cast

import httptools
import uvicorn
from starlette.types import Scope
from typing_extensions import override
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.server import ServerState

from flambeau.frontend.descriptors import is_scarce
from flambeau.frontend.exchange import Exchange
from flambeau.frontend.heads import Head, scope_of, with_known_method
from flambeau.frontend.refusals import refusal
from flambeau.protocols import limits
from flambeau.protocols.http import EXCHANGE

if TYPE_CHECKING:
    from flambeau.frontend.http import Listener

_SLICES = 2
_SLICE_BYTES = 16 * 1024
"""Parsed at once: one read may hold thousands of requests, and only a few may wait."""

_MUCH_BESIDE = f"Chunk extensions or trailers are larger than {limits.MAX_HEAD_BYTES} bytes."


class HttpConnection(asyncio.Protocol):
    """Parses requests and runs the application for each; made by `HttpServer`."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, object],  # noqa: ARG002  # uvicorn's
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.loop = _loop or asyncio.get_running_loop()
        self.transport = cast("asyncio.Transport", None)
        self.flow = cast("FlowControl", None)
        self.parser = cast("httptools.HttpRequestParser", None)
        self.exchange: Exchange | None = None
        """The request that was parsed last."""
        self._running: Exchange | None = None  # the one that is being answered, or was last
        self.pipeline: deque[tuple[Exchange, Scope]] = deque()
        self.listener = cast("Listener", config.app)
        self._server = server_state
        self._new_parser()
        self._head = Head()
        self._method = b""  # the request's own, where the parser was given another
        self._connecting = False  # a CONNECT request: what follows is not HTTP
        self._unfinished_bytes = 0  # of a head that is not complete, at least
        self._idle_bytes = 0  # since the last of a body's data: chunk extensions, trailers
        self._unparsed = b""  # what waits until the requests before it are answered
        # A refusal that waits for answers to what came before; nothing is read any more.
        self._refused: tuple[int, str] | None = None
        self._may_be_long = False  # whether the head has to be measured when it is
        self._is_too_long = False
        self._in_head = True
        self._resuming = False  # whether a new parser is told of a head that was read already
        self._begun = False  # whether a request's first byte has come, and not yet its last
        self._late_from: float | None = None  # since when the client has owed us something
        self._timer: asyncio.TimerHandle | None = None
        self.idle_from: float | None = None
        self.stalled_from: float | None = None
        self._idle_timer: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.flow = FlowControl(self.transport)
        self._server.connections.add(self)  # type: ignore[arg-type]  # uvicorn names its own classes
        self._ends = scope_of(self.transport)
        reason = self.listener.connections.admit(self, self._ends["client"])
        if reason or is_scarce(self.transport.get_extra_info("socket").fileno()):
            self._refuse(503, reason)
            return
        self._late_from = self.loop.time()
        self._watch(limits.HEAD_SECONDS)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        for timer in filter(None, (self._timer, self._idle_timer)):
            timer.cancel()
        self._server.connections.discard(self)
        self.listener.connections.forget(self)
        self.flow.resume_writing()
        if exc is None:
            self.transport.close()
        if self._running is not None:
            self._running.leave()
        self.pipeline.clear()
        self._unparsed = b""
        self.exchange = self._running = None  # they know us, as the parser does: no cycle
        self.parser = cast("httptools.HttpRequestParser", None)

    @override
    def pause_writing(self) -> None:
        self.flow.pause_writing()

    @override
    def resume_writing(self) -> None:
        self.stalled_from = None
        self.flow.resume_writing()

    @override
    def data_received(self, data: bytes) -> None:
        self.idle_from = None
        if self._unparsed or len(data) > _SLICE_BYTES:
            self._unparsed += data
            self._parse_slices()
        else:
            self._take(data)
        self._note_late()

    def _note_late(self) -> None:
        if self.transport.is_closing() or not self._owes():
            self._late_from = None
        elif self._late_from is None:
            self._late_from = self.loop.time()
            if self._timer is None:
                self._watch(limits.HEAD_SECONDS)

    def _parse_slices(self) -> None:
        """Parse until a request waits for its turn, or others their turn; the client waits."""
        data, self._unparsed = self._unparsed, b""
        for start in range(0, len(data), _SLICE_BYTES):
            if self._refused or self.transport.is_closing():
                return
            if self.pipeline or start == _SLICES * _SLICE_BYTES:
                self._unparsed = data[start:]
                self.flow.pause_reading()
                if not self.pipeline:
                    self.loop.call_soon(self._go_on)
                return
            self._take(data[start : start + _SLICE_BYTES])

    def _go_on(self) -> None:
        if not self.transport.is_closing():
            self._parse_slices()
            self.read_on()
            self._note_late()

    def _take(self, data: bytes) -> None:
        if self._refused:
            return
        if not self._in_head:
            self._may_be_long = True
            self._idle_bytes += len(data)
        else:
            if not self._begun:
                data, self._method = with_known_method(data)
            self._unfinished_bytes += len(data)
            self._may_be_long = self._may_be_long or self._unfinished_bytes > limits.MAX_HEAD_BYTES
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._refuse(431 if self._is_too_long else 400)
        if self._in_head:
            if self._unfinished_bytes > limits.MAX_HEAD_BYTES:
                self._refuse(431)
        elif self._idle_bytes > limits.MAX_HEAD_BYTES:
            self._refuse(400, _MUCH_BESIDE)

    def _parse(self, data: bytes) -> None:
        """Feed the parser. Where a head offers an upgrade it takes what follows for another protocol;
        a parser in its place reads on. Raises `HttpParserError`."""
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if self._connecting:
                    return  # not HTTP either way
                data = data[upgrade.args[0] :]
                self._read_on()
            else:
                return

    def _new_parser(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        # What follows a request with `Connection: close` is no error.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _read_on(self) -> None:
        """Put a new parser where the head of the current request ends."""
        self._new_parser()
        framing = self._head.framing()
        if framing:
            lines = b"".join(b"%s: %s\r\n" % header for header in framing)
            self._resuming = True
            try:
                self.parser.feed_data(b"POST / HTTP/1.1\r\n" + lines + b"\r\n")
            finally:
                self._resuming = False

    # what uvicorn's server calls

    def shutdown(self) -> None:
        """The server stops: an incomplete request is not waited for."""
        last = self.exchange
        if not self._in_head and not self.pipeline:
            self.transport.close()  # whoever reads the body is told that the client left
        elif last is None or last.response_complete:
            self.transport.close()
        else:
            last.keep_alive = False
        self._end_soon()

    def _end_soon(self) -> None:
        # TLS waits half a minute for the client to say goodbye too, and idle ones do not.
        if self._ends["scheme"] == "https" and self.transport.is_closing():
            self.loop.call_later(limits.GOODBYE_SECONDS, self.transport.abort)

    # what the parser calls

    def on_message_begin(self) -> None:
        """A request's first byte."""
        if self._resuming:
            return
        self._late_from = None
        self._begun = True
        self._in_head = True
        self._head = Head()
        self._connecting = False

    def on_url(self, url: bytes) -> None:
        """A part of the request's target."""
        if self._resuming:
            return
        self._head.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; trailers, which would come after the keys were checked, are dropped."""
        if self._resuming or not self._in_head:
            return
        if not self._head.add(name, value):
            self._is_too_long = True
            raise ValueError("too many")

    def on_headers_complete(self) -> None:
        """Run the application for this request, after those before it."""
        if self._resuming:
            return
        self._unfinished_bytes = self._idle_bytes = 0
        self._is_too_long = self._may_be_long and self._head.is_long()
        self._may_be_long = False
        if self._is_too_long:
            raise ValueError("too long")  # the parser stops, and the request is refused
        version = self.parser.get_http_version()
        method = (self._method or self.parser.get_method()).decode("ascii")
        self._method = b""
        self._connecting = method == "CONNECT"
        scope = self._head.scope(self._ends, method, version)
        self._in_head = False
        before = self.exchange
        exchange = self.exchange = scope["extensions"][EXCHANGE] = Exchange(
            self,
            method,
            version,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            expects_continue=self._head.expects_continue,
        )
        if before is None or before.response_complete:
            self._start(exchange, scope)
        else:
            self.flow.pause_reading()
            self.pipeline.append((exchange, scope))

    def on_body(self, body: bytes) -> None:
        """A part of a request's body."""
        assert self.exchange is not None
        self._idle_bytes = 0
        if not self.exchange.response_complete:
            self.exchange.add_body(body)

    def on_message_complete(self) -> None:
        """A request's last byte."""
        if self.parser.should_upgrade() and not self._connecting and self._head.framing():
            return  # its body is still to come: `_read_on`
        assert self.exchange is not None
        self.exchange.end_body()
        self._in_head = True
        self._begun = False

    # one request after the other

    def _start(self, exchange: Exchange, scope: Scope) -> None:
        self._running = exchange
        task = exchange.task = self.loop.create_task(self._run(exchange, scope))
        self._server.tasks.add(task)

    async def _run(self, exchange: Exchange, scope: Scope) -> None:
        try:
            await self.listener(scope, exchange.receive, exchange.send)
        finally:
            assert exchange.task is not None
            self._server.tasks.discard(exchange.task)
            exchange.task = None
            if not exchange.response_complete:  # an unfinished body tells the client
                self.transport.close()

    def answered(self) -> None:
        """A response is complete: go on with the next request, or wait for one."""
        if self.transport.is_closing():
            return
        if self.pipeline:
            self._start(*self.pipeline.popleft())
        elif self._refused is not None:
            self._refuse(*self._refused)
        self._parse_slices()
        self.read_on()
        running = self._running
        if running is None or not running.response_complete or self.exchange is not running:
            return
        if self._begun and self._in_head:
            return  # the next head is late, if anything
        self.idle_from = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(limits.IDLE_SECONDS, self._check_idle)

    def read_on(self) -> None:
        """Read from the client, unless it has sent more than one request already."""
        if not self.pipeline and not self._unparsed:
            self.flow.resume_reading()

    def common_headers(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """The lines that every response has, beside those of its own."""
        return self.listener.headers.dated(headers, self._server.default_headers)

    # the clock

    def _owes(self) -> bool:
        """Whether the client has begun a head, or has not finished a body that nobody reads."""
        if self._in_head:
            return self._begun or self._unfinished_bytes > 0
        return self.exchange is not None and self.exchange.response_complete

    def _watch(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._check_late)

    def _check_late(self) -> None:
        """Runs while something is owed, and looks at the clock."""
        self._timer = None
        if self._late_from is None or self.transport.is_closing():
            return
        answering = self.exchange is not None and not self.exchange.response_complete
        if answering or self.flow.read_paused:
            self._late_from = self.loop.time()  # we keep the client waiting, not it us
        left = self._late_from + limits.HEAD_SECONDS - self.loop.time()
        if left > 0:
            self._watch(left)
        elif self._in_head and self._owes():
            self._refuse(408)
        else:
            self.transport.close()

    def _check_idle(self) -> None:
        """One timer for many requests: it looks how long the connection has really been idle."""
        self._idle_timer = None
        if self.idle_from is None:
            return
        left = self.idle_from + limits.IDLE_SECONDS - self.loop.time()
        if left > 0:
            self._idle_timer = self.loop.call_later(left, self._check_idle)
        else:
            self.transport.close()

    def _refuse(self, status: int, reason: str = "") -> None:
        """Answer what is no request, after those before it, and end the connection."""
        if self.transport.is_closing():
            return
        running, self._refused = self._running, (status, reason)
        if running is not None and not running.response_complete:
            if self._in_head or self.exchange is not running:
                if not self._in_head:
                    self.pipeline.pop()  # its body is broken
                return
            if running.status:  # in the midst of an answer: its missing end tells
                self.transport.close()
                return
        self.transport.write(refusal(status, self.listener.headers.beside(()), reason))
        self.transport.close()
        if running is None:  # or the end of an answer may still be on its way
            self._end_soon()
