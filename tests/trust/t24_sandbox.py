"""T24: a handler that tries to get out, at each sandbox level."""

import os
import platform
import socket
from contextlib import AbstractContextManager
from pathlib import Path

import httpx

from flambeau.worker import landlock, sandbox, seccomp
from tests.trust.escapes import ESCAPES, NUMBERS
from tests.trust.servers import TrustServer, trust_server
from tests.trust.suite import Figures, Limit, Run, Suite

_BASIC_OPEN = {"core", "descriptor"}
"""What `basic` has to refuse already."""


def run(run: Run) -> Figures:
    """Let the handler try all ways at `strict`, then at `basic`."""
    figures: Figures = {"available": sandbox.unavailable() or "yes"}
    with socket.socket() as tcp, _listening(run.folder / "other.sock"):
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        with _listening("\0flambeau-t24-" + run.folder.name):
            for level in ("strict", "basic"):
                with _server(run, level) as server:
                    told = _try(server, run, tcp.getsockname()[1])
                    reported = _level(server)
                    alive = server.alive()
                ways = told["open"]
                assert isinstance(ways, list)
                figures[f"open_{level}"] = " ".join(ways)
                figures[f"alive_{level}"] = int(alive and reported == level)
                if level == "strict":
                    figures |= {"tried": int(str(told["tried"])), "escapes": len(ways)}
                else:
                    figures["basic_broken"] = len(_BASIC_OPEN & set(ways))
    return figures


def _server(run: Run, level: str) -> AbstractContextManager[TrustServer]:
    return trust_server(
        run,
        {"stub": 1, "other": 1},
        name=level,
        source=ESCAPES,
        properties={"sandbox": level, "preload": "tests.trust.flawed_worker"},
        environment={"MY_API_KEY": "canary", "UNLISTED": "canary"},
    )


def _try(server: TrustServer, run: Run, port: int) -> dict[str, object]:
    key = server.folder / "key_file.json"
    key.write_text('{"key": "secret"}')
    body = {
        "key": str(key),
        "other": str(server.folder / "store" / "other" / "MAR-INF" / "MANIFEST.json"),
        "home": str(Path.home() / ".flambeau-escape"),
        "port": port,
        "socket": str(run.folder / "other.sock"),
        "abstract": "\0flambeau-t24-" + run.folder.name,
        "server": server.pid,
        "log": [server.log.stat().st_dev, server.log.stat().st_ino],
        "sibling": server.workers("other")[0],
        "calls": NUMBERS[platform.machine()],
    }
    answer = httpx.post(f"{server.inference}/predictions/stub", json=body, timeout=60)
    (Path.home() / ".flambeau-escape").unlink(missing_ok=True)
    told: dict[str, object] = answer.json()
    if "open" not in told:
        raise RuntimeError(f"{told} {server.log.read_text()[-3000:]}")
    return told


def _level(server: TrustServer) -> str:
    described = httpx.get(server.management + "/models/stub", timeout=30).json()[0]
    return str(described["handler"]["sandbox"])


def _listening(address: str | Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(address))
    sock.listen()
    return sock


def _no_landlock() -> None:
    """Forget the restriction of files, ports and signals."""
    landlock.restrict = lambda *_, **__: None


def _no_seccomp() -> None:
    """Forget the filter of system calls."""
    seccomp.restrict = lambda **_: None


def _keep_environment() -> None:
    """Hand on all variables that the server has."""

    def carelessly(folder: Path) -> None:
        os.environ["TMPDIR"] = str(folder)

    sandbox._scrub_environment = carelessly


SUITE = Suite(
    name="t24",
    title="sandbox",
    promises=("G29",),
    limits=(
        Limit("available", exactly="yes"),
        Limit("tried", low=30),
        Limit("escapes", exactly=0),
        Limit("basic_broken", exactly=0),
        Limit("alive_strict", exactly=1),
        Limit("alive_basic", exactly=1),
    ),
    controls={
        "no-landlock": _no_landlock,
        "no-seccomp": _no_seccomp,
        "keep-environment": _keep_environment,
    },
    run=run,
)
