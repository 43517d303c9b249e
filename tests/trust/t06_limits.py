"""T6: each ceiling lets its last value pass, and refuses the next before memory is taken for it."""

import json
from collections.abc import Iterator

import msgspec
from starlette.types import Receive, Scope

from flambeau.protocols import limits, prediction
from tests.trust.servers import TrustServer, trust_server
from tests.trust.suite import Figures, Limit, Run, Suite
from tests.trust.wire import ask, memory, reset_peak

_BODY = 1_000_000
"""`max_request_size` of the suite's server."""
_SLACK = 4 * 1024 * 1024
"""What a process's memory varies by without a reason: its allocator, its logs."""
_TYPES = [
    "application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=b",
    "text/plain",
    "application/octet-stream",
    "application/x-made-up",
]


class Case(msgspec.Struct, frozen=True):
    """A request, and the statuses that it may get; `ceiling` is in bytes, of what it would hold."""

    name: str
    parts: tuple[bytes, ...]
    wanted: tuple[int, ...]
    ceiling: int


def run(run: Run) -> Figures:
    """Send each of the cases, and look at the status and at the most that memory ever was."""
    wrong: list[str] = []
    late: list[str] = []
    count, most = 0, 0.0
    with trust_server(run, properties={"max_request_size": _BODY}) as server:
        cases = [case for case in _cases() if run.control is None or "announced" not in case.name]
        for case in cases:  # the allocator has seen them all
            _send(server, case)
        for case in cases:
            before = memory(server.pid, "VmRSS")
            reset_peak(server.pid)
            got = _send(server, case)
            peak = memory(server.pid, "VmHWM") - before
            count += 1
            if got not in case.wanted:
                wrong.append(f"{case.name}: {got}")
            if got >= 400:
                most = max(most, peak / 1e6)
                if peak > 2 * case.ceiling + _SLACK:
                    late.append(f"{case.name}: {peak}")
        dead = not server.alive()
    return {
        "limits": count, "wrong": len(wrong), "late_alloc": len(late), "rss_mb": most,
        "dead": int(dead), "first_wrong": "; ".join([*wrong, *late])[:300],
    }  # fmt: skip


def _send(server: TrustServer, case: Case) -> int:
    base = server.management if case.name.startswith("management") else server.inference
    return ask(base, *case.parts)


def _post(body: bytes, kind: str, path: str = "/predictions/stub", more: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\n{more}"
    return f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body


def _chunked(body: bytes, size: int, kind: str) -> tuple[bytes, ...]:
    head = f"POST /predictions/stub HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\n"
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(part), part)
        for start in range(0, len(body), size)
        if (part := body[start : start + size])
    )
    closing = f"{head}transfer-encoding: chunked\r\nconnection: close\r\n\r\n".encode()
    return closing, chunks, b"0\r\n\r\n"


def _cases() -> Iterator[Case]:
    yield from _heads()
    yield from _bodies()
    yield from _forms()
    yield from _documents()


def _heads() -> Iterator[Case]:
    begin, end = b"GET /ping HTTP/1.1\r\nhost: localhost\r\n", b"connection: close\r\n\r\n"
    most = limits.MAX_HEAD_BYTES
    for size, wanted in ((most - 200, 200), (most, 431), (10 * most, 431), (200 * most, 431)):
        for name, head in (
            ("header", begin + b"x: " + b"y" * size + b"\r\n" + end),
            ("query", b"GET /ping?" + b"q" * size + b" HTTP/1.1\r\nhost: localhost\r\n" + end),
            ("name", begin + b"x" * size + b": y\r\n" + end),
        ):
            yield Case(f"{name} {size}", (head,), (wanted,), most)
        model = b"GET /predictions/" + b"m" * size + b" HTTP/1.1\r\nhost: localhost\r\n" + end
        yield Case(f"model {size}", (model,), (404 if wanted == 200 else 431,), most)
    for number in (limits.MAX_HEADERS - 2, limits.MAX_HEADERS - 1, 10 * limits.MAX_HEADERS):
        head = begin + b"a:\r\n" * number + end
        yield Case(
            f"headers {number}", (head,), (200 if number < limits.MAX_HEADERS - 1 else 431,), most
        )
    chunked = (
        b"POST /predictions/stub HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    yield Case("trailers", (chunked, b"1\r\nx\r\n0\r\n" + b"t: u\r\n" * 500_000), (400,), most)
    yield Case("extension", (chunked, b"1;" + b"e" * 3_000_000), (400,), most)


def _bodies() -> Iterator[Case]:
    for kind in _TYPES:
        for size, wanted in ((_BODY - 1, 200), (_BODY, 200), (_BODY + 1, 413), (10 * _BODY, 413)):
            body = b"a" * size
            for more in ("", "content-encoding: gzip\r\n"):
                if more and size not in (_BODY, _BODY + 1):
                    continue
                parts = (_post(body, kind, more=more),)
                yield Case(f"body {kind} {more.strip()} {size}", parts, (wanted,), _BODY)
            if kind == "text/plain":
                yield Case(f"chunked {size}", _chunked(body, 65536, kind), (wanted,), _BODY)
    tiny = _chunked(b"x" * _BODY, 1, "text/plain")
    yield Case(f"{_BODY} chunks", tiny, (200,), _BODY)
    yield Case("too many chunks", _chunked(b"x" * (_BODY + 1), 1, "text/plain"), (413,), _BODY)
    announced = b"POST /predictions/stub HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"
    for length in (_BODY + 1, 2**31, 2**63 - 1):
        yield Case(f"announced {length}", (announced % length,), (413,), 0)
    yield Case("announced beyond", (announced % 2**64,), (400,), 0)


def _forms() -> Iterator[Case]:
    for number in (limits.MAX_PARTS, limits.MAX_PARTS + 1, 10 * limits.MAX_PARTS, 10_000):
        wanted = 200 if number <= limits.MAX_PARTS else 400
        parts = b"".join(
            b'--b\r\ncontent-disposition: form-data; name="n%d"\r\n\r\nv\r\n' % each
            for each in range(number)
        )
        form = _post(parts + b"--b--\r\n", "multipart/form-data; boundary=b")
        yield Case(f"parts {number}", (form,), (wanted,), _BODY)
        pairs = b"&".join(b"n%d=v" % each for each in range(number))
        form = _post(pairs, "application/x-www-form-urlencoded")
        yield Case(f"pairs {number}", (form,), (wanted,), _BODY)


def _documents() -> Iterator[Case]:
    """Of the management API, whose bodies the server itself parses."""
    most = limits.MAX_PARAMETERS_BYTES
    empty = len(json.dumps({"url": ""}))
    for size, wanted in ((most, 404), (most + 1, 413), (10 * most, 413)):
        body = json.dumps({"url": "x" * (size - empty)}).encode()
        parts = (_post(body, "application/json", "/models"),)
        yield Case(f"management {size}", parts, (wanted, 400) if wanted == 404 else (wanted,), most)
    for name, body in (
        ("depth", b'{"url":' + b"[" * 30_000),
        ("digits", b'{"url":' + b"9" * 60_000 + b"}"),
        ("numbers", b'{"url":[' + b"1," * 30_000 + b"1]}"),
    ):
        yield Case(
            f"management {name}", (_post(body, "application/json", "/models"),), (400, 404), most
        )


def _read_first_judge_later() -> None:
    """Compare a body with its limit when it is there."""

    async def carelessly(
        _scope: Scope, receive: Receive, _limit: int, _held: object = None
    ) -> bytes:
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        return body

    prediction.read_body = carelessly  # type: ignore[attr-defined, assignment]  # the flaw


def _no_bound_on_heads() -> None:
    """Let heads be of any size."""
    limits.MAX_HEAD_BYTES = 1 << 30


SUITE = Suite(
    name="t6",
    title="limits",
    promises=("G19",),
    limits=(
        Limit("limits", low=80),
        Limit("wrong", exactly=0),
        Limit("late_alloc", exactly=0),
        Limit("dead", exactly=0),
    ),
    controls={"late-check": _read_first_judge_later, "endless-heads": _no_bound_on_heads},
    run=run,
)
