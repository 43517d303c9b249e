"""T26: what our own OpenAPI documents describe is true of every request that can be made from them.

The requests are made by `schema_cases`, not by schemathesis: that brings a dozen packages that
nothing else here needs (GraphQL's, an HTTP client, a server's toolkit, native JSON schemas), and each
would have to be pinned and listed with the supply chain's; ours repeats a run by its seed alone.
"""

import collections
import contextlib
import http.client
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx

from flambeau.protocols import management, status
from flambeau.protocols.parameters import Parameters
from flambeau.protocols.status import HttpError
from flambeau.testing.echo import write_model
from flambeau.testing.waiting import wait_until
from tests.trust.schema_cases import Case, Maker
from tests.trust.servers import STUB, TrustServer, trust_server
from tests.trust.suite import Figures, Limit, Run, Suite

_AT_ONCE = 6
_SLOW_SECONDS = 1.0
_ALLOWED_5XX = {501, 503, 504, 507}
_STEPS = 10
_WRONG = ("bad_5xx", "undeclared", "malformed", "unexpected", "slow", "dead")
_GOOD = b'{"inputs": [{"name": "a", "shape": [2], "datatype": "FP32", "data": [1, 2]}]}'
_COUNTS = "def handle(data, context):\n    return None if data is None else [1 for each in data]\n"
"""A handler that needs tensors to be tensors no further than the envelope that reads them."""

_KINDS: dict[str, type | tuple[type, ...]] = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict,
}  # fmt: skip


def run(run: Run) -> Figures:
    """Send cases of each operation and lives of models, and hold the answers against the documents."""
    total = run.amount(5000, 100_000, 1500)
    lives = run.amount(40, 800, 5)
    options = {
        "disable_token_authorization": "false",
        "token_failures_per_minute": 0,
        "max_request_size": 65_000,
        "default_workers_per_model": 1,
        "load_models": "stub",
        "models": json.dumps({"stub": {"1.0": {"minWorkers": 1, "maxWorkers": 1}}}),
    }
    write_model(run.folder / "server" / "store", "stub", STUB)
    write_model(run.folder / "server" / "store", "spare", STUB)
    write_model(run.folder / "tensors" / "store", "stub", _COUNTS)
    tensor_options = options | {"service_envelope": "kservev2"}
    with (
        trust_server(run, {}, properties=options) as server,
        trust_server(run, {}, properties=tensor_options, name="tensors") as tensors,
    ):
        bench = _Bench(server, tensors)
        wait_until(bench.alive, 60)
        maker = Maker(bench.documents, run.random())
        sequences = [maker.sequence(_STEPS) for _ in range(lives)]
        rest = total - sum(map(len, sequences))
        cases = [[each] for each in itertools.islice(maker.cases(), rest)]
        # The lives are spread over the run, so that processes start beside other requests.
        every = max(len(cases) // len(sequences), 1)
        for number, sequence in enumerate(sequences):
            cases.insert(number * (every + 1), sequence)
        bench.send_all(iter(cases))
        bench.note("dead", "server", wrong=not bench.alive())
    (run.folder / "wrong.txt").write_text("\n".join(bench.wrong))
    return {"operations": len(bench.operations), **bench.count}


class _Bench:
    """Sends cases over connections that are kept, and counts what is wrong with the answers."""

    def __init__(self, server: TrustServer, tensors: TrustServer) -> None:
        self._servers = (server, tensors)
        self._bases = {
            "inference": server.inference,
            "management": server.management,
            "metrics": server.metrics,
            "tensors": tensors.inference,
        }
        self._keys = {"tensors": _keys(tensors)} | dict.fromkeys(
            ("inference", "management", "metrics"), _keys(server)
        )
        self.documents = {
            name: httpx.get(f"{self._bases[name]}/openapi.json", timeout=30).json()
            for name in ("inference", "management", "metrics")
        }
        self._schemas = {
            name: document.get("components", {}).get("schemas", {})
            for name, document in self.documents.items()
        }
        self._schemas["tensors"] = self._schemas["inference"]
        self._lock = threading.Lock()
        self._slow: list[Case] = []
        self.operations: set[str] = set()
        self.count: collections.Counter[str] = collections.Counter(
            dict.fromkeys(("cases", *_WRONG), 0)
        )
        self.wrong: list[str] = []

    def alive(self) -> bool:
        """Whether both servers answer a good request."""
        for server, listener in zip(self._servers, ("inference", "tensors"), strict=True):
            case = Case(
                "",
                listener,
                "POST",
                "/predictions/stub",
                {},
                media_type="application/json",
                body=_GOOD,
            )
            connection = self._connection(listener)
            try:
                answer = self._ask(connection, case)
            except (OSError, http.client.HTTPException):
                return False
            finally:
                connection.close()
            if server.process.poll() is not None or answer[0] != 200:
                return False
        return True

    def note(self, figure: str, told: str, *, wrong: bool) -> None:
        """Count what is wrong, and keep what is told of it."""
        if wrong:
            with self._lock:
                self.count[figure] += 1
                self.wrong.append(f"{figure}: {told}")

    def send_all(self, groups: Iterator[list[Case]]) -> None:
        """Send groups, of which each keeps its order; what was slow again, alone."""
        threads = [threading.Thread(target=self._work, args=(groups,)) for _ in range(_AT_ONCE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for case in self._slow[:20]:
            tries = [self._seconds(case) for _ in range(3)]
            self.note("slow", f"{case} {tries}", wrong=min(tries) > _SLOW_SECONDS)

    def _work(self, groups: Iterator[list[Case]]) -> None:
        connections = {name: self._connection(name) for name in self._bases}
        while True:
            with self._lock:
                group = next(groups, None)
            if group is None:
                break
            for case in group:
                self._try(connections[case.listener], case)
        for connection in connections.values():
            connection.close()

    def _try(self, connection: http.client.HTTPConnection, case: Case) -> None:
        with self._lock:
            self.count["cases"] += 1
            self.operations.add(f"{case.listener} {case.operation}")
        started = time.monotonic()
        try:
            code, media_type, body = self._ask(connection, case)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self.note("dead", f"{error!r} {case}", wrong=True)
            return
        if time.monotonic() - started > _SLOW_SECONDS and not case.waits:
            self._slow.append(case)
        told = f"{code} {media_type} {body[:300]!r} {case}"[:1500]
        self.note("bad_5xx", told, wrong=code >= 500 and code not in _ALLOWED_5XX)
        self.note("undeclared", told, wrong=str(code) not in case.declared)
        self.note("unexpected", told, wrong=bool(case.expected) and code not in case.expected)
        self.note("unexpected", told, wrong=case.listener == "tensors" and code == 503)
        if case.key != "right" and code not in {401, 403}:
            public = case.operation in _PUBLIC or code == 404 or case.listener == "metrics"
            self.note("unexpected", told, wrong=not public)
        self.note("malformed", told, wrong=not self._fits(case, code, media_type, body))

    def _fits(self, case: Case, code: int, media_type: str, body: bytes) -> bool:
        """Whether the answer is of the media type and the schema that the document declares."""
        error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
        content = case.declared.get(str(code), {"content": error}).get("content", {})
        if "*/*" in content:
            return True
        if media_type not in content:
            return False
        if media_type != "application/json":
            return True
        try:
            document = json.loads(body)
        except ValueError:
            return False
        if code >= 400 and "type" in document and document.get("code") != code:
            return False
        return _valid(document, content[media_type]["schema"], self._schemas[case.listener])

    def _seconds(self, case: Case) -> float:
        connection = self._connection(case.listener)
        started = time.monotonic()
        try:
            self._ask(connection, case)
        except (OSError, http.client.HTTPException):
            return float("inf")
        finally:
            connection.close()
        return time.monotonic() - started

    def _connection(self, listener: str) -> http.client.HTTPConnection:
        url = urlsplit(self._bases[listener])
        return http.client.HTTPConnection(url.hostname or "", url.port, timeout=30)

    def _ask(self, connection: http.client.HTTPConnection, case: Case) -> tuple[int, str, bytes]:
        scope = "inference" if case.listener == "tensors" else case.listener
        keys = self._keys[case.listener]
        key = {
            "right": keys.get(scope, ""),
            "wrong": "nobody's",
            "other": keys["management" if scope == "inference" else "inference"],
            "none": "",
        }[case.key]
        headers = {"content-type": case.media_type} if case.media_type else {}
        headers |= {"authorization": f"Bearer {key}"} if key else {}
        # The answer to a body that is too large may be here before all of it is sent.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(case.method, case.target, case.body or None, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers.get("content-type", ""), answer.read()


_PUBLIC = {"ping", "livez", "readyz", "startupz", "apiDescription", "api-description", "openapi"}


def _keys(server: TrustServer) -> dict[str, str]:
    document = json.loads((server.folder / "key_file.json").read_text())
    return {scope: entry["key"] for scope, entry in document.items()}


def _valid(value: object, schema: dict[str, Any], known: dict[str, Any]) -> bool:
    """Whether a value is of a schema: types, properties, items and choices."""
    if "$ref" in schema:
        schema = known.get(schema["$ref"].rpartition("/")[2], {})
    kind = schema.get("type")
    if kind and (
        not isinstance(value, _KINDS[kind]) or (isinstance(value, bool) and kind != "boolean")
    ):
        return False
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        return all(name in value for name in schema.get("required", ())) and all(
            _valid(value[name], each, known) for name, each in properties.items() if name in value
        )
    if isinstance(value, list):
        return all(_valid(each, schema.get("items", {}), known) for each in value)
    return value in schema.get("enum", [value])


def _parser_raises() -> None:
    """Read a number without a thought of what else may stand there."""

    def carelessly(parameters: Parameters, key: str, default: int) -> int:
        return int(parameters[key]) if key in parameters else default

    management.integer = carelessly  # type: ignore[attr-defined]  # the flaw


def _undeclared_status() -> None:
    """Answer bad input as another framework would."""
    known = status.http_error

    def carelessly(kind: Any) -> HttpError:
        found = known(kind)
        return HttpError(422, found.type) if found.status == 400 else found

    status.http_error = carelessly


def _quotes_as_they_come() -> None:
    """Put what a client sent into JSON as it is."""

    def carelessly(code: int, type_name: str, message: str) -> bytes:
        return f'{{"code": {code}, "type": "{type_name}", "message": "{message}"}}'.encode()

    vars(status)["error_body"] = carelessly


_CONTROLS: dict[str, Callable[[], None]] = {
    "parser-raises": _parser_raises,
    "undeclared-status": _undeclared_status,
    "unquoted-errors": _quotes_as_they_come,
}

SUITE = Suite(
    name="t26",
    title="schema_fuzz",
    promises=("G20",),
    limits=(
        Limit("operations", low=40),
        Limit("cases", low=1000),
        *(Limit(figure, exactly=0) for figure in _WRONG),
    ),
    controls=_CONTROLS,
    run=run,
)
