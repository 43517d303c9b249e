"""T3: every route with every method, kind of key, and spelling of host and path: only the right key opens.

Routes are those that the listeners describe, so that a new one without a scope is found.
"""

import datetime
import json
import sys
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec

from flambeau.frontend.gate import Gate
from flambeau.ipc import frontend_messages
from flambeau.ipc.frontend_messages import Grant
from flambeau.protocols.http import Endpoint, PublicEndpoint, header
from flambeau.protocols.management import ManagementApi
from flambeau.serving import token_file, tokens
from flambeau.serving.token_file import create_token
from flambeau.serving.tokens import Keyring, digest_of, new_key
from flambeau.testing.echo import write_model
from flambeau.testing.waiting import wait_until
from tests.trust.raw import Answer, Raw, ask_all
from tests.trust.servers import STUB, TrustServer, trust_server
from tests.trust.suite import Figures, Limit, Run, Suite
from tests.trust.timing import LEAK, compare_t

_PUBLIC = {"/", "/api-description", "/openapi.json", "/ping", "/livez", "/readyz", "/startupz"}
"""Paths that need no key, and reveal nothing; a decision, not an oversight."""

_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
_UNDESCRIBED = {
    "inference": ("/nowhere", "/absent/predict", "/absent/1.0/predict"),
    "management": ("/token", "/nowhere", "/models/absent/1.0/set-default"),
    "metrics": (),
}
_HOSTS = (
    "127.0.0.1",
    "localhost:1",
    "x/ping",
    "x/ping?",
    "h#/ping",
    "[::1]",
    "evil.example",
    "a b",
)
_CELLS = 40


class Keys(msgspec.Struct, frozen=True):
    """Keys by scope, and those that open nothing: of each kind one."""

    right: dict[str, str]
    expired: str
    other_model: str


def run(run: Run) -> Figures:
    """Ask everything; then time the comparison of keys."""
    chance = run.random()
    folder = run.folder / "server"
    write_model(folder / "store", "stub", STUB)
    keys_file = folder / "tokens.json"
    expired = create_token(keys_file, "late", "inference", lifetime=datetime.timedelta(seconds=-5))
    other = create_token(keys_file, "other", "inference", model="other")
    metrics = create_token(keys_file, "metrics", "metrics")
    properties = {
        "disable_token_authorization": "false",
        "token_failures_per_minute": 0,
        "metrics_token": "true",
        "tokens_file": keys_file,
        "http_workers": 1 if run.control == "early-exit" else 2,  # which has no flaws of its own
        "load_models": "stub",
        "models": json.dumps({"stub": {"1.0": {"minWorkers": 1, "maxWorkers": 1}}}),
    }
    totals = {"cells": 0, "bypass": 0, "locked_out": 0, "unlike": 0}
    routes = 0
    with trust_server(run, {}, properties=properties) as server:
        document = json.loads((folder / "key_file.json").read_text())
        right = {scope: entry["key"] for scope, entry in document.items()} | {"metrics": metrics}
        keys = Keys(right, expired, other)
        wait_until(lambda: _alive(server, right["inference"]))
        for listener in ("inference", "management", "metrics"):
            for path in _paths(server, listener):
                routes += 1
                for figure, count in _try_route(server, keys, listener, path).items():
                    totals[figure] += count
        alive = _alive(server, right["inference"])
    key = new_key()
    ring = Keyring()
    grants = [Grant(digest_of(each), "inference") for each in (key, new_key(), new_key())]
    ring.take(frontend_messages.Keys(grants))
    t = compare_t(ring.grant_of, key, run.amount(200_000, 1_000_000), chance)
    return {"routes": routes, **totals, "compare_t": t, "alive": int(alive)}


def _alive(server: TrustServer, key: str) -> bool:
    headers = {"authorization": f"Bearer {key}"}
    url = f"{server.inference}/predictions/stub"
    return httpx.post(url, content=b"well", headers=headers, timeout=30).status_code == 200


def _paths(server: TrustServer, listener: str) -> list[str]:
    """What a listener describes, with a model that is not there, and what it does not describe."""
    document = httpx.get(f"{getattr(server, listener)}/openapi.json", timeout=30).json()
    described = [path for path, item in document["paths"].items() if "servers" not in item]
    filled = [
        path.replace("{model_name}", "absent")
        .replace("{model_version}", "1.0")
        .replace("{url_path}", "more")
        for path in described
    ]
    return sorted({*filled, *_UNDESCRIBED[listener]})


def _try_route(server: TrustServer, keys: Keys, listener: str, path: str) -> dict[str, int]:
    """Figures of one route: cells, and those where a wrong key passed or a right one did not."""
    scope = "API" if path == "/token" else listener
    public = path in _PUBLIC
    spelled = [(path, ("host", host)) for host in _HOSTS]
    spelled += [(target, ("host", host)) for target in _spellings(path) for host in _HOSTS]
    counts = {"cells": 0, "bypass": 0, "locked_out": 0, "unlike": 0}
    for name, headers, expected in _credentials(keys, scope):
        requests = [
            Raw(method, target, (host, *headers)) for method in _METHODS for target, host in spelled
        ]
        answers = ask_all(getattr(server, listener), requests)
        counts["cells"] += len(answers)
        first: dict[tuple[str, str], int] = {}
        for request, answer in zip(requests, answers, strict=True):
            known = first.setdefault((request.method, request.target), answer.status)
            counts["unlike"] += answer.status != known  # the Host decides nothing
            if name == "right":
                counts["locked_out"] += _is_refused(answer)
            elif not public:
                counts["bypass"] += not _is_refused(answer, expected)
    return counts


def _spellings(path: str) -> list[str]:
    """The same route otherwise spelled, and others that a prefix or a substring takes for a public one."""
    first = path[1:2] or "/"
    return [
        f"//{path[1:]}/",
        f"/%{ord(first):02x}{path[2:]}" if path != "/" else "/?/ping",
        f"{path}?x=/ping&y=/metrics;/api-description",
        f"http://other.example{path}",
    ]


def _credentials(
    keys: Keys, scope: str
) -> list[tuple[str, tuple[tuple[str, str], ...], tuple[int, ...]]]:
    """Eight states: a name, the headers, and how they have to be refused."""
    right = keys.right[scope]
    wrong_scope = keys.right["API" if scope in {"inference", "metrics"} else "inference"]

    def bearer(key: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {key}"),)

    return [
        ("none", (), (401,)),
        ("wrong", bearer(right[:-1] + ("A" if right[-1] != "A" else "B")), (401,)),
        ("expired", bearer(keys.expired), (401,)),
        ("other scope", bearer(wrong_scope), (401, 403)),
        ("other model", bearer(keys.other_model), (401, 403)),
        ("two headers", (*bearer(right), *bearer("x")), (401,)),
        ("other case", (("authorization", f"bearer {right}"),), (401,)),
        ("right", bearer(right), ()),
    ]


def _is_refused(answer: Answer, expected: tuple[int, ...] = (401, 403)) -> bool:
    """Whether the gate refused it: its statuses are others' too."""
    if answer.status not in expected:
        return False
    return b"InvalidKeyException" in answer.body or b"HTTP/1.1 40" in answer.head


def _prefix_check() -> None:
    """Let pass what begins like a public path, in a URL that is built from the Host header."""
    check = Gate.check

    def carelessly(self: Gate, scope: Any, needed: Any, model: str = "") -> None:
        url = f"http://{header(scope, b'host')}{scope['path']}"
        if not httpx.URL(url).path.startswith("/ping"):
            check(self, scope, needed, model)

    Gate.check = carelessly  # type: ignore[method-assign]


def _forgotten_scope() -> None:
    """Add a route that nobody gave a scope."""
    find = ManagementApi.endpoint

    def carelessly(self: ManagementApi, method: str, segments: list[str]) -> Endpoint | None:
        found = find(self, method, segments)
        return PublicEndpoint(found) if found and len(segments) == 1 else found

    ManagementApi.endpoint = carelessly  # type: ignore[method-assign]


def _early_exit() -> None:
    """Keep the keys themselves, and compare them until the first difference."""

    def plain(key: str) -> bytes:
        return key.encode()[-32:].rjust(32, b"0")

    def equal(one: bytes, other: bytes) -> bool:
        return all(ours == theirs for ours, theirs in zip(one, other, strict=True))

    for module in (tokens, token_file, sys.modules[__name__]):
        vars(module)["digest_of"] = plain
    vars(tokens)["hmac"] = SimpleNamespace(compare_digest=equal)


SUITE = Suite(
    name="t3",
    title="auth_matrix",
    promises=("G23",),
    limits=(
        Limit("routes", low=30),
        Limit("cells", low=30 * 7 * 8 * _CELLS),
        Limit("bypass", exactly=0),
        Limit("locked_out", exactly=0),
        Limit("unlike", exactly=0),
        Limit("compare_t", high=LEAK),
        Limit("alive", exactly=1),
    ),
    controls={
        "prefix-check": _prefix_check,
        "forgotten-scope": _forgotten_scope,
        "early-exit": _early_exit,
    },
    run=run,
)
