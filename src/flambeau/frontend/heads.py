"""The head of a request while it is read: request line and headers."""

import asyncio
import re
import urllib.parse

import httptools
from starlette.types import Scope
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl

from flambeau.protocols import limits
from flambeau.protocols.http import HEADER_NAMES

_PARSED = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"CONNECT"})
_USUAL = (b"POST /", b"GET /")
_METHOD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}) /")
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
"""Headers that say how long a body is."""


class Head:
    """What has been read of a head."""

    __slots__ = ("expects_continue", "headers", "names", "url")

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.names: list[bytes] = []
        self.expects_continue = False

    def add(self, name: bytes, value: bytes) -> bool:
        """Add a header; returns False where there are too many."""
        key = name.lower()
        self.names.append(name)
        self.headers.append((key, value))
        if key == b"expect" and value.lower() == b"100-continue":
            self.expects_continue = True
        return len(self.names) <= limits.MAX_HEADERS

    def is_long(self) -> bool:
        """Whether it is larger than a head may be."""
        size = len(self.url) + sum(len(key) + len(value) for key, value in self.headers)
        return size > limits.MAX_HEAD_BYTES

    def framing(self) -> list[tuple[bytes, bytes]]:
        """The headers that say how long the body is."""
        return [header for header in self.headers if header[0] in _FRAMING]

    def scope(self, ends: Scope, method: str, version: str) -> Scope:
        """The ASGI scope. Raises `httptools.HttpParserError` for a target that is no URL."""
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        return {
            **ends,
            "http_version": version,
            "method": method,
            "path": urllib.parse.unquote(path) if "%" in path else path,
            "raw_path": url.path,
            "query_string": url.query or b"",
            "headers": self.headers,
            "extensions": {HEADER_NAMES: self.names},
        }


def scope_of(transport: asyncio.Transport) -> Scope:
    """What is the same in the scopes of all requests of a connection."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "server": get_local_addr(transport),
        "client": get_remote_addr(transport),
        "scheme": "https" if is_ssl(transport) else "http",
        "root_path": "",
    }


def with_known_method(data: bytes) -> tuple[bytes, bytes]:
    """The begin of a request with a method that the parser knows, and the real one if it is another.

    TorchServe passes methods that nobody has heard of. Only at the begin of what was received: a
    made-up method in a pipeline is refused.
    """
    if data.startswith(_USUAL):
        return data, b""
    match = _METHOD.match(data)
    if match is None or match.group(1) in _PARSED:
        return data, b""
    return b"POST" + data[match.end(1) :], match.group(1)
