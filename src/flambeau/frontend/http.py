"""The ASGI application of one listener: finds the protocol, adds what every answer carries.

Every response, errors included, leaves through `Listener`: request id, cache headers, access log
and metrics are added here once. An unexpected exception becomes a 500 with an opaque id; its text
goes to the log only.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import NamedTuple

from starlette.types import Receive, Scope, Send

from flambeau.errors import ErrorKind, FlambeauError
from flambeau.frontend.connections import Connections
from flambeau.frontend.exchange import Exchange
from flambeau.frontend.gate import Gate
from flambeau.frontend.headers import CommonHeaders
from flambeau.frontend.responses import ResponseLog
from flambeau.protocols.http import (
    EXCHANGE,
    Endpoint,
    HttpProtocol,
    ModelEndpoint,
    PublicEndpoint,
    check_path,
    respond,
)
from flambeau.protocols.status import error_response
from flambeau.serving.tokens import TokenScope
from flambeau.telemetry.masking import mask_query

logger = logging.getLogger(__name__)


_REFUSALS = frozenset({ErrorKind.OVERLOADED, ErrorKind.OWN_LIMIT})
"""What a server says very often when it has the least time."""


class Mount(NamedTuple):
    """A protocol at a listener; its routes take a key of one of `scopes`, or none if that is empty."""

    protocol: HttpProtocol
    scopes: frozenset[TokenScope]


class Answering(NamedTuple):
    """What all listeners of a server have in common."""

    responses: ResponseLog
    gate: Gate
    headers: CommonHeaders
    torchserve_statuses: bool = False
    max_connections: int = 0
    max_connections_per_address: int = 0


class _Route(NamedTuple):
    """What a request asks for: an endpoint, or why there is none; the keys that it takes, and the
    model that it is for."""

    endpoint: Endpoint | FlambeauError
    needed: frozenset[TokenScope]
    model: str = ""


class Listener:
    """Serves one or more protocols at one address."""

    def __init__(self, mounts: Sequence[Mount], answering: Answering) -> None:
        self._mounts = mounts
        self._answering = answering
        self.headers = answering.headers
        self.connections = Connections(
            answering.max_connections, answering.max_connections_per_address
        )
        self.leaving = False
        """Whether a stop has begun: each connection ends with its next answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange: Exchange = scope["extensions"][EXCHANGE]
        try:
            await self._answer(scope, receive, send)
        except FlambeauError as error:
            await self._fail(exchange, error)
        except asyncio.CancelledError:
            raise
        except Exception:
            logger.exception("Request %s failed unexpectedly", exchange.request_id)
            text = f"Internal error. The log has the details under {exchange.request_id}."
            await self._fail(exchange, FlambeauError(ErrorKind.INTERNAL, text))
        self._record(scope, exchange)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        check_path(scope["raw_path"])
        route = self._find(scope)
        gate = self._answering.gate
        try:
            gate.check(scope, route.needed, route.model)
            if isinstance(route.endpoint, FlambeauError):
                raise route.endpoint
        except FlambeauError:
            if not gate.is_preflight(scope):
                raise
            await respond(send, 200, b"")  # a browser goes on only after a success
            return
        await route.endpoint(scope, receive, send)

    def _find(self, scope: Scope) -> _Route:
        segments = [part for part in scope["path"].split("/") if part]
        refused: _Route | None = None
        for protocol, scopes in self._mounts:
            try:
                endpoint = protocol.endpoint(scope["method"], segments)
            except FlambeauError as error:
                refused = _Route(error, scopes)
                continue
            if endpoint is not None:
                if isinstance(endpoint, PublicEndpoint):
                    return _Route(endpoint, frozenset())
                model = endpoint.model if isinstance(endpoint, ModelEndpoint) else ""
                return _Route(endpoint, scopes, model)
        return refused or _Route(
            FlambeauError(
                ErrorKind.ROUTE_NOT_FOUND,
                "Requested resource is not found, please refer to API document.",
            ),
            frozenset(scope for mount in self._mounts for scope in mount.scopes),
        )

    async def _fail(self, exchange: Exchange, error: FlambeauError) -> None:
        """Answer with an error, unless the answer has begun already."""
        if exchange.status:
            return
        if error.kind is ErrorKind.CANCELLED:
            exchange.status = 499  # nobody is there to read it
            return
        status, body = error_response(error, torchserve=self._answering.torchserve_statuses)
        headers: dict[str, str] = {}
        if status == 401:
            headers["www-authenticate"] = "Bearer"
        if error.retry_after is not None:
            headers["retry-after"] = str(max(1, round(error.retry_after)))
        if error.kind in _REFUSALS:
            exchange.goes_on_after_error = True  # a new connection costs more than the refusal
        if error.kind is ErrorKind.REQUEST_TIMEOUT:
            exchange.ends_connection = True  # nothing can follow half a body
        await respond(exchange.send, status, body, "application/json", headers)

    def _record(self, scope: Scope, exchange: Exchange) -> None:
        """Count the response, and write its line of the access log as TorchServe does."""
        responses = self._answering.responses
        if not responses.wants_lines:
            responses.add(exchange.status, "")
            return
        host, port = scope.get("client") or ("unix", 0)
        uri = scope["raw_path"].decode("latin-1")
        if scope["query_string"]:
            uri += "?" + mask_query(scope["query_string"].decode("latin-1"))
        milliseconds = int((time.monotonic() - exchange.started) * 1000)
        responses.add(
            exchange.status,
            f'/{host}:{port} "{scope["method"]} {_printable(uri)} HTTP/{scope["http_version"]}"'
            f" {exchange.status} {milliseconds}",
        )


def _printable(text: str) -> str:
    """A log line stays one line."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
