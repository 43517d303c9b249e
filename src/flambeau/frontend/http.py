"""The ASGI application of one listener: finds the protocol, adds what every answer carries.

Every response, errors included, leaves through `Listener`: request id, cache headers, access log
and metrics are added here once. An unexpected exception becomes a 500 with an opaque id; its text
goes to the log only.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Sequence

from starlette.types import Message, Receive, Scope, Send

from flambeau.errors import ErrorKind, FlambeauError
from flambeau.protocols.http import Endpoint, HttpProtocol, check_path, respond
from flambeau.protocols.status import error_response
from flambeau.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)
access_log = logging.getLogger("ACCESS_LOG")

_FIXED_HEADERS = (
    (b"pragma", b"no-cache"),
    (b"cache-control", b"no-cache; no-store, must-revalidate, private"),
    (b"expires", b"Thu, 01 Jan 1970 00:00:00 UTC"),
)


class Listener:
    """Serves one or more protocols at one address."""

    def __init__(
        self,
        protocols: Sequence[HttpProtocol],
        metrics: Metrics,
        *,
        torchserve_statuses: bool = False,
    ) -> None:
        self._protocols = protocols
        self._metrics = metrics
        self._torchserve_statuses = torchserve_statuses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1000})
            return
        exchange = _Exchange(send, torchserve_statuses=self._torchserve_statuses)
        scope["state"] = {"request_id": exchange.request_id}
        try:
            await self._find(scope)(scope, receive, exchange.send)
        except FlambeauError as error:
            await exchange.fail(error)
        except asyncio.CancelledError:
            raise
        except Exception:
            logger.exception("Request %s failed unexpectedly", exchange.request_id)
            text = f"Internal error. The log has the details under {exchange.request_id}."
            await exchange.fail(FlambeauError(ErrorKind.INTERNAL, text))
        self._record(scope, exchange)

    def _find(self, scope: Scope) -> Endpoint:
        check_path(scope["raw_path"])
        segments = [part for part in scope["path"].split("/") if part]
        refused: FlambeauError | None = None
        for protocol in self._protocols:
            try:
                endpoint = protocol.endpoint(scope["method"], segments)
            except FlambeauError as error:
                refused = error
                continue
            if endpoint is not None:
                return endpoint
        raise refused or FlambeauError(
            ErrorKind.ROUTE_NOT_FOUND,
            "Requested resource is not found, please refer to API document.",
        )

    def _record(self, scope: Scope, exchange: "_Exchange") -> None:
        self._metrics.response(exchange.status)
        if access_log.isEnabledFor(logging.INFO):
            host, port = scope.get("client") or ("unix", 0)
            query = scope["query_string"]
            uri = scope["raw_path"].decode("latin-1") + ("?" + query.decode("latin-1")) * bool(
                query
            )
            access_log.info(
                '/%s:%s "%s %s HTTP/%s" %d %d',
                host,
                port,
                scope["method"],
                _printable(uri),
                scope["http_version"],
                exchange.status,
                (time.monotonic() - exchange.started) * 1000,
            )


class _Exchange:
    """One request and its response, so that every way out adds the same headers."""

    __slots__ = ("_close", "_send", "_torchserve_statuses", "request_id", "started", "status")

    def __init__(self, send: Send, *, torchserve_statuses: bool) -> None:
        self._send = send
        self._torchserve_statuses = torchserve_statuses
        self._close = False
        self.request_id = str(uuid.uuid4())
        self.started = time.monotonic()
        self.status = 0

    async def send(self, message: Message) -> None:
        """Pass a response message on; the first one gets the common headers."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] += [(b"x-request-id", self.request_id.encode()), *_FIXED_HEADERS]
            if self._close:
                message["headers"].append((b"connection", b"close"))
        await self._send(message)

    async def fail(self, error: FlambeauError) -> None:
        """Answer with an error, unless the answer has begun already."""
        if self.status:
            return
        if error.kind is ErrorKind.CANCELLED:
            self.status = 499  # nobody is there to read it
            return
        status, body = error_response(error, torchserve=self._torchserve_statuses)
        headers: dict[str, str] = {}
        if error.retry_after is not None:
            headers["retry-after"] = str(max(1, round(error.retry_after)))
        # The body's rest is not read, so nothing can follow it.
        self._close = error.kind in {ErrorKind.PAYLOAD_TOO_LARGE, ErrorKind.REQUEST_TIMEOUT}
        await respond(self.send, status, body, "application/json", headers)


def _printable(text: str) -> str:
    """A log line stays one line."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
