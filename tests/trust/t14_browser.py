"""T14: a web page in the browser of somebody who runs a server without tokens manages no models."""

import itertools
import random

import httpx

from flambeau.frontend.gate import Gate
from tests.trust.servers import TrustServer, trust_server
from tests.trust.suite import Figures, Limit, Run, Suite

_CHANGES = (
    ("POST", "/models?url=stub&model_name=evil"),
    ("PUT", "/models/stub?min_worker=0&max_worker=0"),
    ("PUT", "/models/stub/1.0/set-default"),
    ("DELETE", "/models/stub"),
    ("DELETE", "/models/stub/1.0"),
)
_SIMPLE = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b")
"""Content types that a page may send anywhere without asking first."""

_ORIGINS = ("https://evil.example", "null", "http://localhost.evil.example", "http://127.0.0.1:1")


def _foreign_hosts(port: int | None) -> tuple[str, ...]:
    return (
        f"evil.example:{port}",
        "evil.example",
        "localhost.evil.example",
        f"127.0.0.1.evil.example:{port}",
        f"user@127.0.0.1:{port}",
        "[::1",
        "xn--lcalhost-n4a",
    )


def run(run: Run) -> Figures:
    """Send what a browser lets a foreign page send, and what a page of a rebound name sends."""
    with trust_server(run) as server, httpx.Client(timeout=30) as client:
        port = httpx.URL(server.management).port
        hosts = _foreign_hosts(port)
        cases: list[tuple[str, str, dict[str, str]]] = []
        for (method, path), origin, kind in itertools.product(_CHANGES, _ORIGINS, _SIMPLE):
            cases.append((method, path, {"origin": origin, "content-type": kind}))
        for (method, path), host in itertools.product((*_CHANGES, ("GET", "/models")), hosts):
            own = {"host": host, "origin": f"http://{host}"}
            cases += [(method, path, own), (method, path, {"host": host})]
        run.random().shuffle(cases)
        accepted = sum(_passes(client, server, *case) for case in cases)
        allowed, told = _preflights(client, server, run.random())
        own = {"origin": server.management}
        url = f"{server.management}/models/stub?min_worker=1"
        good = client.put(url, headers=own).is_success and server.alive()
    return {
        "cases": len(cases),
        "accepted": accepted,
        "preflights_allowed": allowed,
        "cors_headers": told,
        "good": int(good),
    }


def _passes(
    client: httpx.Client, server: TrustServer, method: str, path: str, headers: dict[str, str]
) -> bool:
    """Whether it had an effect, or told anything."""
    body = b"--b--\r\n" if "multipart" in headers.get("content-type", "") else b""
    answer = client.request(method, server.management + path, headers=headers, content=body)
    return answer.status_code not in {400, 403}


def _preflights(
    client: httpx.Client, server: TrustServer, chance: random.Random
) -> tuple[int, int]:
    """How many were allowed, and how many answers had a cross-origin header."""
    allowed = told = 0
    for base, path in (
        (server.management, "/models"),
        (server.management, "/models/stub"),
        (server.inference, "/predictions/stub"),
        (server.metrics, "/metrics"),
    ):
        headers = {
            "origin": chance.choice(_ORIGINS),
            "access-control-request-method": chance.choice(["PUT", "DELETE", "POST"]),
            "access-control-request-headers": "x-do",
        }
        answer = client.options(base + path, headers=headers)
        names = [name for name in answer.headers if name.startswith("access-control-")]
        told += len(names)
        allowed += bool(names)
    return allowed, told


def _any_origin() -> None:
    """Believe every page's origin."""
    Gate._check_origin = lambda self, scope: None  # type: ignore[method-assign]


def _any_host() -> None:
    """Believe every Host, as most servers do."""
    Gate._check_host = lambda self, scope: None  # type: ignore[method-assign]


SUITE = Suite(
    name="t14",
    title="browser",
    promises=("G22",),
    limits=(
        Limit("cases", low=100),
        Limit("accepted", exactly=0),
        Limit("preflights_allowed", exactly=0),
        Limit("cors_headers", exactly=0),
        Limit("good", exactly=1),
    ),
    controls={"any-origin": _any_origin, "any-host": _any_host},
    run=run,
)
