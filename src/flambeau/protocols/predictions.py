"""TorchServe's inference API: `/predictions`, `/explanations` and `/ping` (contract.md section 5).

The prediction path is a bare ASGI endpoint: it is most of what the server does.
"""

import asyncio

from starlette.types import Receive, Scope, Send

from flambeau.errors import FlambeauError, PredictionError
from flambeau.protocols.forms import read_fields
from flambeau.protocols.http import (
    Endpoint,
    header,
    method_not_allowed,
    read_body,
    respond,
    respond_json,
    start_message,
)
from flambeau.scheduling.queue import Entry
from flambeau.serving.inference import Inference
from flambeau.types import Chunk

PRIVATE_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization"})
"""Request headers that handlers, which are other people's code, never see (promises.md G25)."""


class Predictions:
    """The inference API over HTTP."""

    def __init__(self, inference: Inference, max_request_size: int) -> None:
        self._inference = inference
        self._limit = max_request_size

    def endpoint(self, method: str, segments: list[str]) -> Endpoint | None:  # noqa: ARG002
        """The endpoint for a path of this API; every method predicts, as in TorchServe."""
        match segments:
            case ["predictions" | "explanations" as kind, name, *rest]:
                version = rest[0] if rest else ""
                call = _Call(self, name, version, "/".join(rest[1:]), kind == "explanations")
                return call.answer
            case ["ping", *_]:
                return self.ping
            case []:
                raise method_not_allowed()
            case _:
                return None

    async def ping(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Health of all models' default versions (section 5.9)."""
        healthy = self._inference.healthy()
        status = "Healthy" if healthy else "Unhealthy"
        await respond_json(send, {"status": status}, 200 if healthy else 500)

    async def predict(self, call: "_Call", scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, queue the request, send the answer part by part."""
        self._inference.check_model(call.name, call.version)
        body = await read_body(scope, receive, self._limit)
        fields = read_fields(header(scope, b"content-type"), body)
        request_id: str = scope["state"]["request_id"]
        entry = self._inference.submit(
            call.name, call.version, call.handler_headers(scope), fields, request_id
        )
        watcher = asyncio.ensure_future(_cancel_when_client_leaves(receive, entry))
        try:
            first = await entry.next()
            status = _status(first)
            if first.last:
                await respond(send, status, first.body, first.content_type, first.headers)
            else:
                await _stream(entry, first, status, send)
        finally:
            watcher.cancel()
            entry.cancel()


class _Call:
    """One request's path, taken apart."""

    __slots__ = ("_api", "_explain", "_url_path", "name", "version")

    def __init__(
        self,
        api: Predictions,
        name: str,
        version: str,
        url_path: str,
        explain: bool,
    ) -> None:
        self._api = api
        self.name = name
        self.version = version
        self._url_path = url_path
        self._explain = explain

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._api.predict(self, scope, receive, send)

    def handler_headers(self, scope: Scope) -> dict[str, str]:
        """What the handler sees: the client's headers, and the server's own (section 5.2)."""
        headers = {
            key: value.decode("latin-1")
            for raw, value in scope["headers"]
            if (key := raw.decode("latin-1")) not in PRIVATE_HEADERS
        }
        headers.pop("describe", None)
        headers["explain"] = str(self._explain)
        headers["url_path"] = self._url_path
        return headers


def _status(first: Chunk) -> int:
    """The status that the handler chose. Raises `PredictionError` where it can end no exchange."""
    status = first.status or 200
    if not 200 <= status <= 599:
        raise PredictionError(f"The handler set the status {status}; 200 to 599 can be sent.")
    return status


async def _stream(entry: Entry, first: Chunk, status: int, send: Send) -> None:
    await send(start_message(status, first.content_type, first.headers))
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


async def _cancel_when_client_leaves(receive: Receive, entry: Entry) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    entry.cancel()
