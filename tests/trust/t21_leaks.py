"""T21: what is left after many requests, many failures, and many models that came and went.

Memory is sampled while each goes on, and has to be level over the second half; descriptors, threads,
processes, shared memory, files and metric series are counted before and after, and have to be equal.
"""

import contextlib
import json
import os
import random
import shutil
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil

from flambeau.archive.cache import ArchiveCache
from flambeau.serving.inference import Inference
from flambeau.testing.echo import write_model
from flambeau.testing.waiting import wait_until
from tests.trust.mars import write_mar
from tests.trust.pipelines import send_many
from tests.trust.servers import TrustServer, trust_server
from tests.trust.suite import Figures, Limit, Run, Suite

_SAMPLES = 20
_SOURCE = """
def handle(data, context):
    answers = []
    for row in data or []:
        body = bytes(row.get("body") or b"")
        if body == b"raise":
            raise ValueError("as it was told to")
        answers.append(body)
    return answers
"""


class _Holdings(msgspec.Struct, frozen=True):
    """What the server and its descendants hold; memory in bytes."""

    descriptors: int
    threads: int
    processes: int
    shared: int
    files: int
    series: int


def run(run: Run) -> Figures:
    """Requests, failures and models, one after the other, on one server."""
    requests = run.amount(100_000, 1_000_000, 40_000)
    failures = run.amount(10_000, 100_000, 1000)
    cycles = run.amount(200, 2000, 40)
    settings = {"minWorkers": 1, "maxWorkers": 1, "batchSize": 16, "maxBatchDelay": 1}
    properties = {"models": json.dumps({"stub": {"1.0": settings}})}  # batches: twice as fast
    with trust_server(run, source=_SOURCE, properties=properties) as server:
        port = int(server.inference.rpartition(":")[2])
        _good(port, 3000)
        _bad(port, run.random(), 500)
        with ThreadPoolExecutor(12) as pool:  # at once: the server's pool has all its threads then
            list(
                pool.map(lambda number: _models(server, range(number, number + 3)), range(0, 36, 3))
            )
        before = _settled(server)
        answered: list[int] = []
        slopes = {
            "requests": _slope(
                server, requests, lambda _, count: answered.append(_good(port, count))
            ),
            "failures": _slope(
                server, failures, lambda index, count: _bad(port, random.Random(index), count)
            ),
            "models": _slope(
                server,
                cycles,
                lambda index, count: _models(server, range(1000 * index, 1000 * index + count)),
            ),
        }
        after = _settled(server, before)
        alive = server.alive()
    figures: Figures = {"requests": requests, "unanswered": requests - sum(answered)}
    figures |= {"failures": failures, "cycles": cycles}
    figures |= {f"slope_{name}_mb": slope / 1e6 for name, slope in slopes.items()}
    for name in _Holdings.__struct_fields__:
        figures[f"{name}_delta"] = getattr(after, name) - getattr(before, name)
    return figures | {"alive": int(alive)}


def _slope(server: TrustServer, total: int, work: Callable[[int, int], object]) -> float:
    """By how many bytes memory grows over the second half of the work, by a straight line's slope.

    Memory is that of the server and of its children that live all the time.
    """
    everyone = [psutil.Process(server.pid), *server.descendants()]
    memory = []
    for index in range(_SAMPLES):
        work(index, total // _SAMPLES)
        memory.append(sum(_rss(process) for process in everyone))
    half = memory[_SAMPLES // 2 :]
    middle = (len(half) - 1) / 2
    steps = [index - middle for index in range(len(half))]
    rise = sum(step * value for step, value in zip(steps, half, strict=True))
    return rise / sum(step * step for step in steps) * len(half)


def _rss(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.NoSuchProcess):
        rss: int = process.memory_info().rss
        return rss
    return 0


def _good(port: int, count: int) -> int:
    head = "POST /predictions/stub HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\n\r\n"
    return send_many(port, head.encode() + b"well", count)[200]


def _bad(port: int, choose: random.Random, count: int) -> None:
    """Handlers that raise, models and paths that are not there, no HTTP at all, and clients that leave."""
    share = count // 5
    head = "POST {} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\nraise"
    send_many(port, head.format("/predictions/stub").encode(), share)
    send_many(port, head.format(f"/predictions/none-{choose.random()}").encode(), share)
    send_many(port, head.format(f"/nowhere/{choose.random()}").encode(), share)
    for number in range(share):
        for text in ("no HTTP\r\n\r\n", head.format("/predictions/stub")):
            with socket.create_connection(("127.0.0.1", port)) as client:
                data = text.encode()
                client.sendall(data if number % 2 else data[:-3])


def _models(server: TrustServer, numbers: range) -> None:
    """Register, ask and unregister models of names that never come again, archives and folders."""
    store = server.folder / "store"
    with httpx.Client(timeout=60) as client:
        for number in numbers:
            name = f"model-{number}"
            workers = (number + 1) % 2
            if not workers:
                path = write_mar(store / f"{name}.mar", name, source=_SOURCE)
            else:
                path = write_model(store, name, _SOURCE)
            query = {"url": path.name, "initial_workers": str(workers)}
            registered = client.post(f"{server.management}/models", params=query)
            assert registered.status_code == 200, registered.text
            client.post(f"{server.inference}/predictions/{name}", content=b"well")
            client.post(f"{server.inference}/predictions/{name}/1.0", content=b"raise")
            client.delete(f"{server.management}/models/{name}")
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _holdings(server: TrustServer) -> _Holdings:
    everyone = [psutil.Process(server.pid), *server.descendants()]
    text = httpx.get(f"{server.metrics}/metrics").text
    cache = server.folder / "cache"
    logs = server.folder / "logs"
    files = [path for path in server.folder.rglob("*") if not path.is_relative_to(logs)]
    return _Holdings(
        sum(process.num_fds() for process in everyone),
        sum(process.num_threads() for process in everyone),
        len(everyone),
        sum(_shared(process) for process in everyone),
        sum(not path.is_relative_to(cache) for path in files),
        sum(not line.startswith("#") for line in text.splitlines()),
    )


def _shared(process: psutil.Process) -> int:
    """Pieces of shared memory that a process has mapped."""
    try:
        lines = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
    except OSError:
        return 0
    return sum("/dev/shm/" in line or "/memfd:" in line for line in lines)


def _settled(server: TrustServer, wanted: _Holdings | None = None) -> _Holdings:
    """The holdings when they are as wanted, or else as they were a moment before; or after 10 s."""
    found: _Holdings | None = None

    def same() -> bool:
        nonlocal found
        earlier = found
        with contextlib.suppress(psutil.NoSuchProcess):
            found = _holdings(server)
            return found == (wanted or earlier)
        return False

    with contextlib.suppress(TimeoutError):
        wait_until(same, 10)
    return found or _holdings(server)


_kept: list[bytes] = []


def _leak() -> None:
    """Keep a kilobyte of each request."""
    submit = Inference.submit

    def keep(self: Inference, *arguments: Any) -> Any:
        _kept.append(bytes(os.urandom(8)) * 128)
        return submit(self, *arguments)

    Inference.submit = keep  # type: ignore[method-assign, assignment]


def _hold_archives() -> None:
    """Never let an unpacked archive go."""
    ArchiveCache.release = lambda _self, digest: None  # type: ignore[method-assign, assignment]


SUITE = Suite(
    name="t21",
    title="leaks",
    promises=("G16",),
    limits=(
        Limit("requests", low=40_000),
        Limit("unanswered", exactly=0),
        Limit("slope_requests_mb", high=5),
        Limit("slope_failures_mb", high=5),
        Limit("slope_models_mb", high=5),
        *(Limit(f"{name}_delta", exactly=0) for name in _Holdings.__struct_fields__),
        Limit("alive", exactly=1),
    ),
    controls={"leak": _leak, "hold-archives": _hold_archives},
    run=run,
    alone=True,
)
