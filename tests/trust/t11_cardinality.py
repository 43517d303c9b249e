"""T11: strangers' methods, paths, names and ids become no metric series, and stay in no memory."""

import contextlib
import socket

import httpx
from starlette.types import Scope

from flambeau.frontend.exchange import Exchange
from flambeau.frontend.http import Listener
from flambeau.telemetry.metrics import Metrics
from flambeau.types import ModelKey
from tests.trust.servers import TrustServer, trust_server
from tests.trust.suite import Figures, Limit, Run, Suite
from tests.trust.wire import connect, memory

_AT_ONCE = 50
_FORMS = (
    b"M%x /ping HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET /%x HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET /predictions/m%x HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET /predictions/stub/%x HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET /models/m%x HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET /ping?q%x=1 HTTP/1.1\r\nhost: h%x\r\nx-request-id: %x\r\nx-%x: y\r\n\r\n",
)


def run(run: Run) -> Figures:
    """Send them on a few connections, after as many again that memory may grow by for once."""
    total = run.amount(100_000, 1_000_000, 6000)
    warm = run.amount(20_000, 100_000, 3000)
    with trust_server(run) as server:
        _send(server, 0, warm)
        series, before = _series(server), memory(server.pid, "VmRSS")
        answered = _send(server, warm, total)
        grown = memory(server.pid, "VmRSS") - before
        delta = _series(server) - series
        dead = not server.alive()
    return {
        "strangers": answered, "series_delta": delta, "memory_mb": grown / 1e6, "dead": int(dead),
    }  # fmt: skip


def _series(server: TrustServer) -> int:
    text = httpx.get(server.metrics + "/metrics", timeout=30).text
    return sum(not line.startswith("#") for line in text.splitlines())


def _send(server: TrustServer, first: int, count: int) -> int:
    """Send `count` requests that differ in something; returns how many were answered."""
    answered = 0
    for number, at in enumerate(range(first, first + count, _AT_ONCE)):
        form = _FORMS[number % len(_FORMS)]
        base = server.management if number // len(_FORMS) % 2 else server.inference
        keys = range(0xABC000000 + at, 0xABC000000 + at + _AT_ONCE)
        answered += _exchange(base, [form.replace(b"%x", b"%x" % key) for key in keys])
    return answered


def _exchange(base: str, requests: list[bytes]) -> int:
    """Send them at once, the rest again where an error has ended the connection.

    Made-up methods, which the parser does not know, are sent one after the other.
    """
    together = len(requests) if requests[0].startswith(b"GET") else 1
    answered, ends = 0, 0
    while answered < len(requests) and ends < len(requests):
        ends += 1
        with connect(base) as sock, contextlib.suppress(ConnectionError):
            while answered < len(requests):
                sent = requests[answered : answered + together]
                sock.sendall(b"".join(sent))
                got = _read(sock, len(sent))
                answered += got
                if got < len(sent):
                    break
    return answered


def _read(sock: socket.socket, wanted: int) -> int:
    received = b""
    with contextlib.suppress(ConnectionError):
        while received.count(b"HTTP/1.1 ") < wanted and (part := sock.recv(1 << 16)):
            received += part
    return received.count(b"HTTP/1.1 ")


def _path_as_label() -> None:
    """Count requests by path."""
    respond = Metrics.response
    record = Listener._record
    metrics: list[Metrics] = []

    def remember(self: Metrics, status: int) -> None:
        metrics[:] = [self]
        respond(self, status)

    def carelessly(self: Listener, scope: Scope, exchange: Exchange) -> None:
        record(self, scope, exchange)
        if metrics:
            key = ModelKey(scope["path"], "1.0")
            metrics[0].begin(key)
            metrics[0].failed(key, "stranger")

    Metrics.response = remember  # type: ignore[method-assign]  # the flaw
    Listener._record = carelessly  # type: ignore[method-assign]  # the flaw


def _remember_paths() -> None:
    """Keep something of each path."""
    record = Listener._record
    seen: dict[str, list[str]] = {}

    def carelessly(self: Listener, scope: Scope, exchange: Exchange) -> None:
        record(self, scope, exchange)
        seen.setdefault(scope["path"], []).append(scope["method"] * 100)

    Listener._record = carelessly  # type: ignore[method-assign]  # the flaw


SUITE = Suite(
    name="t11",
    title="cardinality",
    promises=("G34",),
    limits=(
        Limit("strangers", low=6000),
        Limit("series_delta", exactly=0),
        Limit("memory_mb", high=1.0),
        Limit("dead", exactly=0),
    ),
    controls={"path-as-label": _path_as_label, "remembered-paths": _remember_paths},
    run=run,
)
