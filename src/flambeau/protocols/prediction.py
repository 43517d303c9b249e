"""One request to a model over HTTP, whatever route it came by (contract.md sections 5.2 to 5.5).

Routes say which model is meant, what the handler hears of the path, and whether query parameters
are fields of the row; the rest is the same for all, and is here. It is a bare ASGI endpoint: it is
most of what the server does.
"""

from urllib.parse import parse_qsl

import msgspec
from starlette.types import Receive, Scope, Send

from flambeau.errors import ErrorKind, FlambeauError, PredictionError
from flambeau.protocols import limits
from flambeau.protocols.forms import split_body
from flambeau.protocols.http import (
    EXCHANGE,
    HEADER_NAMES,
    Endpoint,
    Exchange,
    ModelEndpoint,
    header,
    read_body,
    respond,
    respond_json,
    start_message,
)
from flambeau.protocols.operations import model_document
from flambeau.scheduling.queue import Entry
from flambeau.serving.inference import DataPlane
from flambeau.types import Chunk, Field

PRIVATE_HEADERS = frozenset({"cookie", "proxy-authorization"})
"""Request headers that handlers, which are other people's code, never see (promises.md G25).

The gate of the front end takes `Authorization` away where it holds a key of the server's own.
"""

SERVER_HEADERS = frozenset({"describe", "explain", "url_path", "url_query"})
"""What handlers hear from the server only: a client's headers of these names are dropped."""


_UNHEARD = frozenset(name.encode() for name in PRIVATE_HEADERS | SERVER_HEADERS)


class Call(msgspec.Struct, frozen=True):
    """Which model a route means, and what it adds.

    `told` are headers for the handler; with `query_fields` the query's parameters are fields.
    """

    name: str
    version: str = ""
    told: dict[str, str] = {}
    query_fields: bool = False


class Predictor:
    """Answers requests to models."""

    def __init__(self, inference: DataPlane, max_request_size: int) -> None:
        self._inference = inference
        self._limit = max_request_size

    def endpoint(self, method: str, call: Call) -> Endpoint:
        """The endpoint of a route: every method predicts, OPTIONS describes (section 5.1)."""

        async def describe(_scope: Scope, _receive: Receive, send: Send) -> None:
            await self._inference.check_model(call.name, call.version)
            await respond_json(send, model_document(call.name))

        async def predict(scope: Scope, receive: Receive, send: Send) -> None:
            await self._inference.check_model(call.name, call.version)
            self._inference.check_room(call.name, call.version)
            await self.answer(call, await self.fields(call, scope, receive), scope, send)

        return ModelEndpoint(call.name, describe if method == "OPTIONS" else predict)

    async def fields(self, call: Call, scope: Scope, receive: Receive) -> list[Field]:
        """Read the body within the limit, and split it; query parameters come first."""
        body = await read_body(scope, receive, self._limit, self._inference.pending)
        fields = await split_body(header(scope, b"content-type"), body)
        if call.query_fields:
            return [Field(name, "", value) for name, value in query_parameters(scope)] + fields
        return fields

    async def answer(self, call: Call, fields: list[Field], scope: Scope, send: Send) -> None:
        """Queue the request, send the answer part by part."""
        headers = _handler_headers(call, scope)
        exchange: Exchange = scope["extensions"][EXCHANGE]
        entry = self._inference.submit(
            call.name, call.version, headers, fields, exchange.request_id
        )
        exchange.on_left(entry.cancel)
        try:
            first = await entry.next()
            await _send_all(entry, first, send)
        finally:
            entry.cancel()


def query_parameters(scope: Scope) -> list[tuple[str, bytes]]:
    """The query's parameters in their order, percent escapes decoded; values may be any bytes."""
    query: bytes = scope["query_string"]
    if query.count(b"&") >= limits.MAX_QUERY_PARAMETERS:
        text = f"A query may have at most {limits.MAX_QUERY_PARAMETERS} parameters."
        raise FlambeauError(ErrorKind.INVALID_INPUT, text)
    return [
        (_text(name), value.encode("utf-8", "surrogateescape"))
        for name, value in parse_qsl(
            query.decode("latin-1"), keep_blank_values=True, errors="surrogateescape"
        )
    ]


def _text(name: str) -> str:
    """A name without halves of surrogate pairs, which no frame to a worker can hold."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _handler_headers(call: Call, scope: Scope) -> dict[str, str]:
    """What the handler sees: the client's headers as spelled, and the server's own (section 5.2)."""
    spelled: list[bytes] = scope["extensions"][HEADER_NAMES]
    headers = {
        name.decode("latin-1"): value.decode("latin-1")
        for name, (key, value) in zip(spelled, scope["headers"], strict=True)
        if key not in _UNHEARD
    }
    headers |= call.told
    if scope["query_string"] and not call.query_fields:
        headers["url_query"] = scope["query_string"].decode("latin-1")
    return headers


async def _send_all(entry: Entry, first: Chunk, send: Send) -> None:
    status = _status(first)
    if first.last:
        await respond(send, status, first.body, first.content_type, first.headers, first.reason)
        return
    await send(start_message(status, first.content_type, first.headers, reason=first.reason))
    chunk = first
    while True:
        message = {"type": "http.response.body", "body": chunk.body, "more_body": not chunk.last}
        await send(message)
        if chunk.last:
            return
        try:
            chunk = await entry.next()
        except FlambeauError:
            return  # too late for a status: an unfinished body tells the client


def _status(first: Chunk) -> int:
    """The status that the handler chose. Raises `PredictionError` where it can end no exchange."""
    status = first.status or 200
    if not 200 <= status <= 999:
        raise PredictionError(f"The handler set the status {status}; 200 to 999 can be sent.")
    return status
