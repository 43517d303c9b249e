"""T25: whatever bytes come, the server answers without a 5xx, in time, and never out of step."""

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import msgspec

from flambeau.frontend.http_connection import HttpConnection
from tests.trust.servers import TrustServer, trust_server
from tests.trust.suite import Figures, Limit, Run, Suite
from tests.trust.wire import statuses

_AT_ONCE = 16
_HANG_SECONDS = 1.0
_BEFORE_END_SECONDS = 0.02
"""Until a client closes its side: what it has smuggled may be answered meanwhile."""
_ALLOWED_5XX = {501, 503, 504, 507}
_INNER = b"GET /predictions/smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n"
_LAST = b"GET /ping HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"

_PATHS = [
    b"/ping", b"/predictions/stub", b"/models", b"/models/stub", b"/metrics", b"/v2", b"/", b"/%",
    b"/predictions/%00", b"/predictions/%ff%fe", b"/predictions/stub/1.0/../x", b"//", b"/?a=b&&=",
    b"/models?limit=-1&next_page_token=99999999999999999999", b"/models/stub/all?customized=TRUE",
    b"/invocations", b"/v1/models/stub:predict", b"/wfpredict/x", b"/predictions/" + b"n" * 3000,
    b"/models?limit=" + b"9" * 5000, b"/predictions/stub?" + b"&" * 2000, b"/api-description",
    b"/%c0%af..%c0%af", b"/predictions/\xf0\x9f\x94\xa5".replace(b"\xf0\x9f\x94\xa5", b"%F0%9F%94%A5"),
]  # fmt: skip
_METHODS = [b"GET", b"POST", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"PATCH", b"MADEUP", b"TRACE"]
_HEADERS = [
    b"accept: */*", b"content-type: application/json", b"content-type: multipart/form-data",
    b"content-type: multipart/form-data; boundary=", b"content-type: multipart/form-data; boundary=x",
    b"content-type: application/x-www-form-urlencoded", b"content-type: \xff\xfe",
    b"content-encoding: gzip", b"authorization: Bearer " + b"x" * 500, b"x-request-id: \x80\x81",
    b"range: bytes=" + b"0-," * 500, b"cookie: a=b", b"upgrade: h2c", b"te: trailers",
    b"expect: 200-nothing", b"x-do: raise", b"forwarded: for=;;;", b"accept-encoding: " + b"x," * 99,
    b"ts_request_sequence_id: \xff", b"x-flambeau-lane: \x01".replace(b"\x01", b"?"), b"date: 0",
]  # fmt: skip
_BODIES = [
    b"", b"{}", b"[" * 500, b'{"a":' * 300, b"9" * 6000, b"\x00\xff" * 50, b"a=b&c", b"%zz=%",
    b"--x\r\n\r\n--x--", b"--x\r\ncontent-disposition: form-data; name=\"a\"\r\n\r\nv\r\n--x--\r\n",
    b"\x80\x04\x95", b"PK\x03\x04", b'"\\ud800"', b"1e999999", b"\xef\xbb\xbf{}",
]  # fmt: skip
_SMUGGLED = [
    b"transfer-encoding: chunked", b"Transfer-Encoding : chunked", b"transfer-encoding: xchunked",
    b"transfer-encoding: chunked, identity", b"transfer-encoding:\tchunked",
    b"transfer-encoding: chunked\r\ntransfer-encoding: identity", b"transfer-encoding: \x0bchunked",
    b"x: y\r\n transfer-encoding: chunked", b"transfer-encoding\t: chunked",
    b"transfer-encoding: identity, chunked", b"transfer-encoding: CHUNKED", b"x: y\ntransfer-encoding: chunked",
    b"transfer-encoding: \"chunked\"", b"transfer-encoding: chunked;q=1", b"\x00transfer-encoding: chunked",
]  # fmt: skip
_LENGTHS = [b"%d", b"+%d", b"%d, %d", b"0x%x", b"%d ", b"-%d", b"00%d", b"%d\r\ncontent-length: 0"]


class Case(msgspec.Struct, frozen=True):
    """What one connection sends. `most` responses may come; `ends` says that it breaks off."""

    parts: list[bytes]
    requests: int
    most: int
    ends: bool = False


def run(run: Run) -> Figures:
    """Send connections of requests, most of them broken; each answer is looked at."""
    random_ = run.random()
    total = run.amount(50_000, 1_000_000, 8000)
    with trust_server(run, {"stub": 2}, properties={"enable_model_api": "false"}) as server:
        bench = _Bench(server)
        asyncio.run(bench.send_all(_cases(random_, total)))
        bench.note("dead", int(not server.alive()))
        text = server.log.read_text(errors="replace")
    return bench.count | {"tracebacks": text.count("failed unexpectedly")}


class _Bench:
    """Sends cases, some at once, and counts what is wrong with the answers."""

    def __init__(self, server: TrustServer) -> None:
        self._bases = [server.inference, server.management, server.metrics]
        self._next = 0
        self.count: dict[str, int | float | str] = dict.fromkeys(
            ("cases", "connections", "bad_5xx", "dead", "hangs", "desync"), 0
        )

    def note(self, what: str, number: int = 1) -> None:
        """Count something."""
        self.count[what] = int(self.count[what]) + number

    async def send_all(self, cases: Iterator[Case]) -> None:
        """Send each once; what takes too long again, alone, before it counts as a hang."""
        slow: list[tuple[str, Case]] = []

        async def work() -> None:
            for case in cases:
                self._next += 1
                base = self._bases[0 if self._next % 4 else 1 + self._next // 4 % 2]
                self.note("cases", case.requests)
                self.note("connections")
                if not await self._send(base, case, 5 * _HANG_SECONDS):
                    slow.append((base, case))

        await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
        for base, case in slow[:20]:
            tries = [await self._send(base, case, _HANG_SECONDS) for _ in range(3)]
            self.note("hangs", not any(tries))

    async def _send(self, base: str, case: Case, seconds: float) -> bool:
        """Returns whether the server ended the connection in time."""
        url = urlsplit(base)
        try:
            reader, writer = await asyncio.open_connection(url.hostname, url.port)
        except OSError:
            self.note("dead")
            return True
        received = b""
        started = time.monotonic()
        try:
            for part in case.parts:
                writer.write(part)
                if len(case.parts) > 1:
                    await asyncio.sleep(0)
            if case.ends:
                await asyncio.sleep(_BEFORE_END_SECONDS if case.most <= 2 else 0)
                writer.write_eof()
            async with asyncio.timeout(seconds):
                while part := await reader.read(1 << 16):
                    received += part
        except TimeoutError:
            return False
        except OSError:
            pass
        finally:
            writer.transport.abort()
        found = statuses(received)
        self.note("bad_5xx", sum(each >= 500 and each not in _ALLOWED_5XX for each in found))
        self.note("desync", len(found) > case.most or b"smuggled" in received)
        return time.monotonic() - started < seconds


def _cases(random_: random.Random, total: int) -> Iterator[Case]:
    makers = [_pipeline] * 6 + [_mutated] * 6 + [_smuggling] * 3 + [_chunk_game] * 3 + [_cut]
    sent = 0
    while sent < total:
        case = random_.choice(makers)(random_)
        sent += case.requests
        yield case


def _request(random_: random.Random) -> bytes:
    body = random_.choice(_BODIES)
    headers = random_.sample(_HEADERS, random_.randrange(4))
    headers.append(b"content-length: %d" % len(body))
    random_.shuffle(headers)
    line = b"%s %s HTTP/1.1\r\nhost: localhost\r\n" % (_method(random_), random_.choice(_PATHS))
    return line + b"\r\n".join(headers) + b"\r\n\r\n" + body


def _method(random_: random.Random) -> bytes:
    return random_.choice(_METHODS[:3] if random_.random() < 0.7 else _METHODS)


def _pipeline(random_: random.Random) -> Case:
    """Requests that are HTTP, then one that ends the connection; cut into parts anywhere."""
    count = random_.randrange(5, 25)
    data = b"".join(_request(random_) for _ in range(count)) + _LAST
    places = sorted(random_.randrange(len(data)) for _ in range(random_.randrange(4)))
    ends = [*places, len(data)]
    parts = [data[start:end] for start, end in zip([0, *places], ends, strict=True)]
    return Case(parts, count + 1, count + 1)


def _mutated(random_: random.Random) -> Case:
    """Some with bytes changed, doubled, lost or swapped; the client then closes its side."""
    count = random_.randrange(4, 16)
    data = bytearray(b"".join(_request(random_) for _ in range(count)))
    for _ in range(random_.randrange(1, 6)):
        place = random_.randrange(len(data))
        match random_.randrange(4):
            case 0:
                data[place] = random_.randrange(256)
            case 1:
                del data[place : place + random_.randrange(1, 20)]
            case 2:
                data[place:place] = data[place : place + random_.randrange(1, 40)]
            case _:
                data[place:place] = random_.choice([b"\r", b"\n", b"\0", b"\r\n\r\n", b" ", b":"])
        if not data:
            break
    return Case([bytes(data)], count, 10_000, ends=True)


def _smuggling(random_: random.Random) -> Case:
    """One request whose length can be read in two ways; a second one stands in its body."""
    body = b"0\r\n\r\n" + _INNER if random_.random() < 0.7 else b"5\r\nxxxxx\r\n0\r\n\r\n" + _INNER
    form = random_.choice(_LENGTHS)
    said = random_.choice([len(body), 4, 5, 0])
    length = b"content-length: " + form.replace(b"%d", str(said).encode()).replace(
        b"%x", f"{said:x}".encode()
    )
    lines = [length, random_.choice(_SMUGGLED)]
    if random_.random() < 0.5:
        lines.reverse()
    head = b"POST /ping HTTP/1.1\r\nhost: localhost\r\n" + b"\r\n".join(lines) + b"\r\n\r\n"
    return Case([head + body], 1, 2, ends=True)


def _chunk_game(random_: random.Random) -> Case:
    """Chunk sizes that overflow, lie, or have things behind them."""
    size = random_.choice([
        b"f" * 16, b"f" * 17, b"-1", b"0x5", b"5 ", b" 5", b"5;" + b"e" * 3000, b"5\n", b"5\r", b"",
        b"00000000000000000005", b"5_", b"g", b"5;\x00", b"5;a=\"", b"+5",
    ])  # fmt: skip
    between = random_.choice([b"\r\n", b"\n", b"\r", b"", b"xx", b"\r\n\r\n"])
    end = random_.choice(
        [b"0\r\n\r\n", b"0\r\nx: y\r\n\r\n", b"0\r\n" + b"t: u\r\n" * 99 + b"\r\n", b"0"]
    )
    body = size + b"\r\nxxxxx" + between + end
    head = b"POST /predictions/nobody HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    return Case([head + body], 1, 2, ends=True)


def _cut(random_: random.Random) -> Case:
    """A client that leaves in the midst of something."""
    data = _request(random_) + _request(random_)
    return Case([data[: random_.randrange(1, len(data))]], 2, 2, ends=True)


def _headers_that_end_twice() -> None:
    """Let a length count for less where a request says both: what follows is another request."""
    take = HttpConnection._take

    def carelessly(self: HttpConnection, data: bytes) -> None:
        head, end, body = data.partition(b"\r\n\r\n")
        if b"content-length" in head and b"transfer-encoding" in head:
            lines = [each for each in head.split(b"\r\n") if not each.startswith(b"content-length")]
            data = b"\r\n".join(lines) + end + body
        take(self, data)

    HttpConnection._take = carelessly  # type: ignore[method-assign]  # the flaw


def _error_500() -> None:
    """Answer what is no HTTP with a 500."""
    refuse = HttpConnection._refuse

    def carelessly(self: HttpConnection, status: int, reason: str = "") -> None:
        if status == 400:
            raise RuntimeError("unexpected")
        refuse(self, status, reason)

    HttpConnection._refuse = carelessly  # type: ignore[method-assign]  # the flaw


_CONTROLS: dict[str, Callable[[], None]] = {
    "two-lengths": _headers_that_end_twice,
    "garbage-raises": _error_500,
}

SUITE = Suite(
    name="t25",
    title="http_raw_fuzz",
    promises=("G20",),
    limits=(
        Limit("cases", low=3000),
        Limit("bad_5xx", exactly=0),
        Limit("dead", exactly=0),
        Limit("hangs", exactly=0),
        Limit("desync", exactly=0),
        Limit("tracebacks", exactly=0),
    ),
    controls=_CONTROLS,
    run=run,
)
