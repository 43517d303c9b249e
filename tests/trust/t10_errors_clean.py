"""T10: errors of every kind, with marked secrets everywhere: none comes out, and no line is forged."""

import json
import logging
import secrets
from pathlib import Path
from typing import Any

import httpx
import psutil

from flambeau.frontend.http import Listener
from flambeau.protocols import prediction
from flambeau.testing.echo import write_model
from flambeau.testing.waiting import wait_until
from tests.trust.raw import Raw, ask_all
from tests.trust.servers import STUB, TrustServer, trust_server
from tests.trust.suite import Figures, Limit, Run, Suite

_FORGED = "2026-01-01T00:00:00,000 [INFO ] main flambeau.forged - "
_SPLITS = ("\r\n", "\n", "\r", "\x85", "\u2028", "\x1b[2J", "\x0b")


def run(run: Run) -> Figures:
    """Force errors with canaries in the environment, headers, bodies, queries and the handler's text."""
    canaries = {
        name: f"canary-{name}-{secrets.token_hex(8)}"
        for name in ("environment", "header", "cookie", "body", "query", "signature", "exception")
    }
    folder = run.folder / "server"
    source = STUB.replace("secret text of an exception", canaries["exception"])
    write_model(folder / "store", "stub", source)
    properties = {
        "disable_token_authorization": "false",
        "load_models": "stub",
        "models": json.dumps({"stub": {"1.0": {"minWorkers": 1, "maxWorkers": 1}}}),
        "allowed_urls": "http://127.0.0.1:1/.*",
    }
    environment = {"TRUST_CANARY": canaries["environment"]}
    with trust_server(run, {}, properties=properties, environment=environment) as server:
        document = json.loads((folder / "key_file.json").read_text())
        keys = {scope: entry["key"] for scope, entry in document.items()}
        wait_until(lambda: _alive(server, keys["inference"]))
        answers = _provoke(server, keys, canaries)
        answers += _forge(server, keys)
        processes = [psutil.Process(server.pid), *server.descendants()]
        shown = "\n".join(" ".join(process.cmdline()) for process in processes)
        metrics = httpx.get(f"{server.metrics}/metrics", timeout=30).text
        core = _core_limit(server.pid)
        alive = _alive(server, keys["inference"])
        for_responses = [
            *keys.values(),
            *canaries.values(),
            str(folder),
            "Traceback",
            "/handler.py",
        ]
        leaks = sum(answer.count(secret) for answer in answers for secret in for_responses)
        log = _settled(server.log)
    elsewhere = [*keys.values(), *(canaries[name] for name in canaries if name != "exception")]
    leaks += sum(text.count(secret) for text in (log, shown, metrics) for secret in elsewhere)
    return {
        "answers": len(answers),
        "leaks": leaks,
        "split_lines": sum(line.startswith(_FORGED) for line in log.splitlines()),
        "controls_in_log": sum(not char.isprintable() and char not in "\n\t" for char in log),
        "core_bytes": core,
        "alive": int(alive),
    }


def _alive(server: TrustServer, key: str) -> bool:
    headers = {"authorization": f"Bearer {key}"}
    url = f"{server.inference}/predictions/stub"
    return httpx.post(url, content=b"well", headers=headers, timeout=30).status_code == 200


def _provoke(server: TrustServer, keys: dict[str, str], canaries: dict[str, str]) -> list[str]:
    """Answers with heads, of errors of all kinds."""
    common = {
        "x-canary": canaries["header"],
        "cookie": f"session={canaries['cookie']}",
    }
    signed = f"http://127.0.0.1:1/a.mar?X-Amz-Signature={canaries['signature']}"
    query = f"?api_key={canaries['query']}"
    calls: list[tuple[str, str, str, str, dict[str, str]]] = [
        ("inference", "POST", f"/predictions/stub{query}", "inference", {"x-do": "raise"}),
        ("inference", "POST", "/predictions/stub", "inference", {"x-do": "fail", "x-code": "418"}),
        ("inference", "POST", "/predictions/stub", "inference", {"x-do": "exit"}),
        ("inference", "POST", "/predictions/absent", "inference", {}),
        ("inference", "POST", "/predictions/stub/9.9", "inference", {}),
        ("inference", "POST", "/v1/models/stub:predict", "inference", {"x-status": "1"}),
        ("inference", "PUT", f"/nowhere{query}", "inference", {}),
        ("inference", "POST", "/predictions/stub", "management", {}),
        ("inference", "POST", "/predictions/stub", "wrong", {}),
        ("management", "POST", "/models", "management", {"content-type": "application/json"}),
        ("management", "POST", "/models?url=absent.mar", "management", {}),
        ("management", "POST", "/models?url=/etc/passwd", "management", {}),
        ("management", "POST", "/models?url=..%2F..%2Fetc%2Fpasswd", "management", {}),
        ("management", "PUT", "/models/stub?min_worker=x", "management", {}),
        ("management", "PUT", "/models/absent/1.0/set-default", "management", {}),
        ("management", "DELETE", "/models/absent", "management", {}),
        ("management", "GET", "/models/stub", "management", {}),
        ("management", "GET", "/models", "management", {}),
        ("management", "GET", "/token?type=API", "API", {}),
        ("metrics", "GET", f"/nowhere{query}", "management", {}),
    ]
    answers = []
    for listener, method, path, key, headers in calls:
        bearer = {"authorization": f"Bearer {keys.get(key, canaries['header'])}"}
        body = json.dumps({"text": canaries["body"]})[:-1]  # no JSON, nearly
        answer = httpx.request(
            method, getattr(server, listener) + path,
            content=body, headers=common | bearer | headers, timeout=60,
        )  # fmt: skip
        echoed = answer.status_code == 200 and listener == "inference"
        answers.append("" if echoed else f"{answer.headers}\n{answer.text}")
    bearer = {"authorization": f"Bearer {keys['management']}"}
    httpx.post(f"{server.management}/models", params={"url": signed}, headers=bearer, timeout=60)
    wait_until(lambda: _alive(server, keys["inference"]))  # after the worker that was ended
    return answers


def _forge(server: TrustServer, keys: dict[str, str]) -> list[str]:
    """Put line ends and escapes into everything that is logged."""
    bearer = ("authorization", f"Bearer {keys['inference']}")
    requests = []
    for split in _SPLITS:
        coded = "".join(f"%{byte:02x}" for byte in (split + _FORGED).encode())
        requests += [
            Raw("GET", f"/predictions/a{coded}", (bearer,)),
            Raw("GET", f"/predictions/stub?q={coded}", (bearer,)),
            Raw("GET", f"/predictions/{coded}/{coded}", (bearer,)),
        ]
    found = [answer.head.decode("latin-1") for answer in ask_all(server.inference, requests)]
    for split in _SPLITS:
        text = (split + _FORGED).encode("latin-1", "replace").rstrip()
        if not any(byte in text for byte in b"\r\n\x00\x0b"):  # no client can send those
            headers = [
                (b"x-do", b"print"),
                (b"x-text", text),
                (b"authorization", bearer[1].encode()),
            ]
            httpx.post(f"{server.inference}/predictions/stub", headers=headers, timeout=30)
        for name in ("model_name", "url", "handler"):
            httpx.post(
                f"{server.management}/models",
                params={"url": "stub", name: f"x{split}{_FORGED}"},
                headers={"authorization": f"Bearer {keys['management']}"},
                timeout=60,
            )
    return found


def _core_limit(pid: int) -> int:
    """Bytes of memory that a core file of the process could hold: 0 by its limit and its filter."""
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    line = next(line for line in limits if line.startswith("Max core file size"))
    soft = line.split()[4]
    filtered = int(Path(f"/proc/{pid}/coredump_filter").read_text(), 16)
    return 0 if soft == "0" and filtered == 0 else 1


def _settled(log: Path) -> str:
    """The log, once nothing more is written."""
    before = -1

    def same() -> bool:
        nonlocal before
        size, last = log.stat().st_size, before
        before = size
        return size == last

    wait_until(same, 30)
    return log.read_text(errors="surrogateescape")


def _log_token() -> None:
    """Help debugging: the access log shows the headers."""
    record = Listener._record

    def carelessly(self: Listener, scope: Any, exchange: Any) -> None:
        logging.getLogger("flambeau").info("headers: %s", scope["headers"])
        record(self, scope, exchange)

    Listener._record = carelessly  # type: ignore[method-assign]


def _tell_exceptions() -> None:
    """Tell clients what an error was, in full."""
    handler_headers = prediction._handler_headers

    def carelessly(call: Any, scope: Any) -> dict[str, str]:
        headers = handler_headers(call, scope)
        if "x-do" in headers:
            raise ValueError(f"cannot do {headers}")
        return headers

    async def told(self: Listener, scope: Any, receive: Any, send: Any) -> None:
        import traceback

        from flambeau.errors import ErrorKind, FlambeauError
        from flambeau.protocols.http import EXCHANGE

        exchange = scope["extensions"][EXCHANGE]
        try:
            await self._answer(scope, receive, send)
        except FlambeauError as error:
            await self._fail(exchange, error)
        except Exception:  # noqa: BLE001  # the flaw
            text = traceback.format_exc()
            await self._fail(exchange, FlambeauError(ErrorKind.INTERNAL, text))
        self._record(scope, exchange)

    prediction._handler_headers = carelessly
    Listener.__call__ = told  # type: ignore[method-assign]


SUITE = Suite(
    name="t10",
    title="errors_clean",
    promises=("G24",),
    limits=(
        Limit("answers", low=30),
        Limit("leaks", exactly=0),
        Limit("split_lines", exactly=0),
        Limit("controls_in_log", exactly=0),
        Limit("core_bytes", exactly=0),
        Limit("alive", exactly=1),
    ),
    controls={"log-token": _log_token, "tell-exceptions": _tell_exceptions},
    run=run,
)
