"""T7: no request makes the server's loop stand still: bombs for parsers, regexes and numbers."""

import json
import time

from flambeau.protocols import forms, management, parameters, prediction
from flambeau.protocols.forms import split_body
from flambeau.types import Field
from tests.trust.servers import TrustServer, trust_server
from tests.trust.suite import Figures, Limit, Run, Suite
from tests.trust.wire import Lag, ask

_LAG_MS = 100.0
_TRIES = 3
"""A bomb is at fault where each try stalls the loop: a busy machine does so now and then."""
_MB = 1024 * 1024


def run(run: Run) -> Figures:
    """Send each bomb while another connection asks for something tiny every 5 ms.

    What that waits without a bomb, on a busy machine, is taken off.
    """
    bombs = _bombs()
    worst, which, late = 0.0, "", list[str]()
    with trust_server(run, {"stub": 2}) as server:
        quiet = max(_lag(server, b"") for _ in range(5))
        for name, bomb in bombs.items():
            lag = 1e9
            for _ in range(_TRIES):
                more = _lag(server, bomb, management=name.startswith("management")) - quiet
                lag = min(lag, more)
                if lag <= _LAG_MS / 2:
                    break
            if lag > _LAG_MS:
                late.append(f"{name} {lag:.0f}")
            if lag > worst:
                worst, which = lag, name
        dead = not server.alive()
    return {
        "bombs": len(bombs), "max_lag_ms": worst, "worst": which, "late": "; ".join(late), "quiet_lag_ms": quiet,
        "dead": int(dead),
    }  # fmt: skip


def _lag(server: TrustServer, bomb: bytes, *, management: bool = False) -> float:
    base = server.management if management else server.inference
    lag = Lag(server.inference)
    with lag.watched():
        time.sleep(0.03)
        if bomb:
            ask(base, bomb)
        time.sleep(0.1)
    return lag.longest * 1000


def _post(body: bytes, kind: str, path: str = "/predictions/stub", more: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\n{more}"
    return f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body


def _bombs() -> dict[str, bytes]:
    """Requests by name; `management …` go to the management address."""
    get = "GET %s HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n%s\r\n"
    form, parts = "application/x-www-form-urlencoded", "multipart/form-data; boundary=b"
    small = 60_000
    part = b'--b\r\ncontent-disposition: form-data; name="n"'
    chunked = (
        b"POST /predictions/stub HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n"
    )
    return {
        "deep json": _post(b"[" * 6 * _MB, "application/json"),
        "deep objects": _post(b'{"a":' * _MB, "application/json"),
        "digits": _post(b"9" * 6 * _MB, "application/json"),
        "exponents": _post(b"[" + b"1e9999," * 900_000 + b"1]", "application/json"),
        "escapes": _post(b"a=" + b"%41" * 2 * _MB, form),
        "half escapes": _post(b"a=" + b"%" * 6 * _MB, form),
        "equals": _post(b"=" * 6 * _MB, form),
        "ampersands": _post(b"&" * 6 * _MB, form),
        "small escapes": _post(b"a=" + b"%41" * 20_000, form),
        "part headers": _post(part + b"\r\n" + b"a:b\r\n" * _MB + b"\r\n--b--", parts),
        "part name": _post(part + b"n" * 6 * _MB + b"\r\n\r\nv\r\n--b--", parts),
        "small part headers": _post(part + b"\r\n" + b"a:b\r\n" * 12_000 + b"\r\n--b--", parts),
        "small options": _post(part + b";" * small + b"\r\n\r\nv\r\n--b--", parts),
        "boundaries": _post(b"\r\n--a" * _MB, parts),
        "near boundaries": _post(part + b"\r\n\r\n" + b"\r\n--" * _MB + b"\r\n--b--", parts),
        "preamble": _post(b"-" * 6 * _MB, parts),
        "content type": _post(b"{}", "multipart/form-data;" + "a=\\" * 10_000),
        "content type quotes": _post(b"{}", 'multipart/form-data; boundary="' + '\\"' * 15_000),
        "query": (get % ("/ping?" + "a&" * 16_000, "")).encode(),
        "query escapes": (get % ("/invocations?" + "%41=%42&" * 4_000, "")).encode(),
        "slashes": (get % ("/" * 32_000, "")).encode(),
        "path escapes": (get % ("/" + "%2f" * 10_000, "")).encode(),
        "token": (get % ("/ping", "authorization: Bearer " + " " * 30_000 + "\r\n")).encode(),
        "cookies": (get % ("/ping", "cookie: " + "a=b;" * 8_000 + "\r\n")).encode(),
        "origin": (get % ("/ping", "origin: http://" + "[" * 30_000 + "\r\n")).encode(),
        "unicode": _post(("\ufdfa" * 2_000_000).encode(), "text/plain"),
        "surrogates": _post(b'"' + b"\\ud800" * _MB + b'"', "application/json"),
        "tiny chunks": chunked + b"connection: close\r\n\r\n" + b"1\r\nx\r\n" * _MB + b"0\r\n\r\n",
        "pipeline": b"GET /ping HTTP/1.1\r\n\r\n" * 3_000 + b"x\r\n\r\n",
        "header flood": b"GET /ping HTTP/1.1\r\n" + b"a:\r\n" * 100_000,
        "management query": (get % ("/models?" + "limit=1&" * 4_000, "")).encode(),
        "management number": (get % ("/models?limit=" + "9" * 32_000, "")).encode(),
        "management path": (get % ("/models/" + "é" * 1000 + "%c3" * 9_000, "")).encode("latin-1"),
        "management json": _post(b'{"url":' + b"[" * small, "application/json", "/models"),
        "management digits": _post(b'{"url":' + b"9" * small + b"}", "application/json", "/models"),
        "management keys": _post(
            json.dumps({str(each): each for each in range(5_000)}).encode(),
            "application/json",
            "/models",
        ),
        "management url": _post(
            json.dumps({"url": "http://" + "a." * 30_000}).encode(), "application/json", "/models"
        ),
        "management slashes": _post(
            json.dumps({"url": "/" * small}).encode(), "application/json", "/models"
        ),
    }


def _split_in_the_loop() -> None:
    """Split large forms where everybody waits for it."""

    async def carelessly(content_type: str, body: bytes) -> list[Field]:
        return forms.read_fields(content_type, body)

    assert prediction.split_body is split_body  # type: ignore[attr-defined]  # imported there
    prediction.split_body = carelessly  # type: ignore[attr-defined]  # the flaw


def _slow_parameters() -> None:
    """Read a query with an expression that tries everything."""
    read = parameters.integer

    def carelessly(given: parameters.Parameters, key: str, default: int) -> int:
        text = given.get(key, "")
        for start in range(min(len(text), 3_000)):
            text[start:].strip("9").isdigit()
            sum(map(int, text[start : start + 2_000]))
        return read(given, key, default)

    management.integer = carelessly  # type: ignore[attr-defined, assignment]  # the flaw


SUITE = Suite(
    name="t7",
    title="budget",
    promises=("G19", "G20"),
    limits=(
        Limit("bombs", low=30),
        Limit("max_lag_ms", high=_LAG_MS),
        Limit("late", exactly=""),
        Limit("dead", exactly=0),
    ),
    controls={"split-in-the-loop": _split_in_the_loop, "slow-parameters": _slow_parameters},
    run=run,
)
