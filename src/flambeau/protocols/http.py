"""What every HTTP protocol shares: how it is found, how it reads a body, how it answers.

A protocol offers `endpoint(method, segments)`: an ASGI endpoint for a path that is its own, None
for a path that is not, and a METHOD_NOT_ALLOWED error for its path with a method it lacks. Paths
are matched on the decoded `scope["path"]`, split at slashes, empty parts dropped; never on a URL
that was rebuilt from headers.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Protocol

from starlette.types import Receive, Scope, Send

from flambeau.errors import ErrorKind, FlambeauError
from flambeau.protocols import limits
from flambeau.protocols.openapi import Operation
from flambeau.protocols.status import json_body
from flambeau.scheduling.held_bytes import HeldBytes

Endpoint = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADER_NAMES = "flambeau.header_names"
"""Key of `scope["extensions"]`: names of `scope["headers"]` as the client spelled them."""

EXCHANGE = "flambeau.exchange"
"""Key of `scope["extensions"]`: the `Exchange`, where the front end offers more than ASGI does."""

REASON = "flambeau.reason"
"""Key of an `http.response.start` message: the reason phrase to send instead of the standard one."""

NO_BODY = frozenset({204, 304})
"""Statuses whose responses have no body: sent ones would be read as the next response."""

_FRAMING = frozenset(
    {
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-request-id",
    }
)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROLS = re.compile(rb"[\x00-\x1f\x7f]")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2}).{0,2}", re.DOTALL)


class Exchange(Protocol):
    """What the front end knows of one request beyond ASGI."""

    request_id: str

    def take_body(self) -> bytes | None:
        """The body, if it is here as a whole and nobody has read any of it; else None."""

    def on_left(self, call: Callable[[], None]) -> None:
        """Call back where the client leaves before its answer is complete."""


class PublicEndpoint:
    """An endpoint that needs no key, where token authorization is on: it reveals no secret."""

    __slots__ = ("_run",)

    def __init__(self, run: Endpoint) -> None:
        self._run = run

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._run(scope, receive, send)


class ModelEndpoint:
    """An endpoint for one model, as its path names it: open to keys that are for this model only."""

    __slots__ = ("_run", "model")

    def __init__(self, model: str, run: Endpoint) -> None:
        self.model = model
        self._run = run

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer one request."""
        return self._run(scope, receive, send)


class HttpProtocol(Protocol):
    """One client-facing API over HTTP; `operations` describe it."""

    operations: tuple[Operation, ...]

    def endpoint(self, method: str, segments: list[str]) -> Endpoint | None:
        """The endpoint for a request, if the path is this protocol's."""


def method_not_allowed(reason: str = "") -> FlambeauError:
    """The error for a known path with the wrong method: TorchServe's sentence, and our reason."""
    text = "Requested method is not allowed, please refer to API document."
    return FlambeauError(ErrorKind.METHOD_NOT_ALLOWED, f"{text} {reason}".rstrip())


async def read_body(
    scope: Scope, receive: Receive, limit: int, pending: HeldBytes | None = None
) -> bytes:
    """Read a request's whole body, refusing more than `limit` bytes before they are held.

    What has come of a body that is not complete counts as `pending`. Raises `FlambeauError`:
    PAYLOAD_TOO_LARGE, OVERLOADED when `pending` has no room, REQUEST_TIMEOUT when it came too slowly
    (`limits.BODY_RATE`), or CANCELLED when the client left.
    """
    exchange: Exchange = scope["extensions"][EXCHANGE]
    whole = exchange.take_body()
    if whole is not None:
        if len(whole) > limit:
            raise _too_large(limit)
        return whole
    pending = pending or HeldBytes(limit, "max_request_size")
    announced = header(scope, b"content-length")
    if announced.isdigit():
        if int(announced) > limit:
            raise _too_large(limit)
        pending.check(int(announced))
    parts: list[bytes] = []
    size = held = 0
    stall = _Stall()
    try:
        async with asyncio.timeout(None) as stall.limit:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise FlambeauError(ErrorKind.CANCELLED, "the client closed the connection")
                part = message.get("body", b"")
                size += len(part)
                stall.size = size
                if size > limit:
                    raise _too_large(limit)
                pending.check(len(part))
                pending.add(len(part))
                held += len(part)
                parts.append(part)
                if not message.get("more_body", False):
                    return parts[0] if len(parts) == 1 else b"".join(parts)
    except TimeoutError:
        text = (
            f"The rest of the request body did not come: less than {limits.BODY_RATE} bytes a second"
            f" in {limits.BODY_SECONDS:g} s."
        )
        raise FlambeauError(ErrorKind.REQUEST_TIMEOUT, text) from None
    finally:
        stall.stop()
        pending.give_back(held)


class _Stall:
    """Ends a body's `limit` where a stretch of `BODY_SECONDS` brought too little; `size` has come."""

    __slots__ = ("_before", "_timer", "limit", "size")

    def __init__(self) -> None:
        self.limit: asyncio.Timeout | None = None
        self.size = self._before = 0
        self._watch()

    def stop(self) -> None:
        """The body is complete, or refused."""
        self._timer.cancel()

    def _watch(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(limits.BODY_SECONDS, self._check)

    def _check(self) -> None:
        assert self.limit is not None
        if self.size - self._before >= limits.BODY_RATE * limits.BODY_SECONDS:
            self._before = self.size
            self._watch()
        else:
            self.limit.reschedule(asyncio.get_running_loop().time())


def header(scope: Scope, name: bytes) -> str:
    """A request header's last value, "" if absent. `name` is lower case."""
    value = b""
    for key, candidate in scope["headers"]:
        if key == name:
            value = candidate
    return value.decode("latin-1")


def check_path(raw: bytes) -> None:
    """Raise `FlambeauError` (INVALID_PATH) for a path with a percent escape that is none."""
    bad = _BAD_ESCAPE.search(raw) if b"%" in raw else None
    if bad is not None:
        shown, place = bad.group()[1:].decode("latin-1"), bad.start() + 1
        text = f"invalid hex byte '{shown}' at index {place} of '{raw.decode('latin-1')}'"
        raise FlambeauError(ErrorKind.INVALID_PATH, text)


async def respond(
    send: Send,
    status: int,
    body: bytes,
    content_type: str = "",
    headers: dict[str, str] | None = None,
    reason: str = "",
) -> None:
    """Send a whole response; `reason` "" stands for the status's standard phrase."""
    if status in NO_BODY:
        body = b""
    await send(start_message(status, content_type, headers, length=len(body), reason=reason))
    await send({"type": "http.response.body", "body": body})


def start_message(
    status: int,
    content_type: str = "",
    headers: dict[str, str] | None = None,
    *,
    length: int | None = None,
    reason: str = "",
) -> dict[str, object]:
    """The first ASGI message of a response; without `length` the body is chunked.

    `reason` "" stands for the status's standard phrase.

    Of `headers`, which are a handler's, those that would break the framing of the connection and
    those whose name is no name are left out.
    """
    raw: list[tuple[bytes, bytes]] = []
    if content_type:
        raw.append((b"content-type", _header_bytes(content_type)))
    for key, value in (headers or {}).items():
        if _TOKEN.fullmatch(key) and key.lower() not in _FRAMING:
            raw.append((key.lower().encode(), _header_bytes(value)))
    if length is not None and status not in NO_BODY:
        raw.append((b"content-length", str(length).encode()))
    message: dict[str, object] = {"type": "http.response.start", "status": status, "headers": raw}
    if reason:
        message[REASON] = _header_bytes(reason)
    return message


async def respond_json(send: Send, document: object, status: int = 200) -> None:
    """Send a JSON document of the server's own."""
    await respond(send, status, json_body(document), "application/json")


def _header_bytes(text: str) -> bytes:
    """Header bytes without line breaks: a handler's value must not forge another header."""
    if text.isprintable():
        return text.encode("latin-1", "replace")
    return _CONTROLS.sub(b" ", text.encode("latin-1", "replace"))


def _too_large(limit: int) -> FlambeauError:
    return FlambeauError(
        ErrorKind.PAYLOAD_TOO_LARGE,
        f"The request body is larger than {limit} bytes; the limit is max_request_size in"
        " config.properties.",
    )
