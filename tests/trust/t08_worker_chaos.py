"""T8: workers are killed, stopped, starved and broken under load, and nobody notices.

An open loop of 50 requests a second goes to two models with two workers each, while both models'
workers are broken one after the other: by signals from outside, at any moment, whatever they do,
and by requests that carry a fault. Every request has an id that its answer repeats. One that only
kills its worker is tried again and must be answered like any other; one that hangs its worker, or
takes all of its memory, has an error of its own, and is no neighbour's. A second server has a BERT
of 100 MB with the native handler: how soon is a worker back?
"""

import asyncio
import json
import os
import signal
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import msgspec

from flambeau.scheduling import batcher
from flambeau.supervisor import slot
from flambeau.supervisor.process import WorkerProcess
from flambeau.testing.models import tiny_model
from flambeau.testing.waiting import wait_until
from tests.trust.chaos import HANDLER, Chaos, Ledger, load, percentile
from tests.trust.servers import TrustServer, trust_server
from tests.trust.suite import Figures, Limit, Run, Suite

_RATE = 50
_BASELINE_SECONDS = 5
_MEMORY = 700_000_000
_KINDS = 11


def run(run: Run) -> Figures:
    """Chaos on stubs, then kills of a large model's workers."""
    properties = {"default_response_timeout": 1, "worker_memory_limit": _MEMORY}
    with trust_server(run, {"one": 2, "two": 2}, properties=properties, source=HANDLER) as server:
        figures = asyncio.run(_stubs(run, server))
        figures["server_alive"] = int(_alive(server, ("one", "two")))
    return figures | _large(run)


async def _stubs(run: Run, server: TrustServer) -> Figures:
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=50)
    async with httpx.AsyncClient(limits=limits) as http:
        calm, ledger = Ledger(server, http), Ledger(server, http)
        await _under_load(calm, asyncio.sleep(_BASELINE_SECONDS))
        chaos = [Chaos(server, http, ledger, model, f"{run.seed}:{model}") for model in _MODELS]
        faults = run.amount(100, 2000, 60)
        alone = faults // 5  # of the first model alone: what does the second one notice?
        await _under_load(ledger, chaos[0].run(alone))
        beside = [each.seconds for each in ledger.neighbours("two")]
        both = (each.run((faults - alone) // 2) for each in chaos)
        await _under_load(ledger, *both)
    usual = [each.seconds for each in calm.neighbours("two")]
    kinds = Counter(kind for each in chaos for kind in each.kinds)
    recoveries = [seconds for each in chaos for seconds in each.recoveries]
    guilty = [each for each in ledger.asked if each.fault]
    neighbours = ledger.neighbours()
    for each in guilty:
        if not each.as_expected:
            print("not as expected:", each, file=sys.stderr)
    return {
        "kills": kinds.total(),
        "kills_short": faults - kinds.total(),
        "kinds": len(kinds),
        "requests": len(ledger.asked),
        "unanswered": sum(not each.status for each in ledger.asked),
        "errors": sum(each.status not in (0, 200) for each in neighbours),
        "wrong": sum(bool(each.status) and not each.right for each in ledger.asked),
        "faults_answered_otherwise": sum(not each.as_expected for each in guilty),
        "slowest_s": max(each.seconds for each in neighbours),
        "recover_p50_s": statistics.median(recoveries),
        "recover_p99_s": percentile(recoveries, 0.99),
        "other_p50_ratio": statistics.median(beside) / statistics.median(usual),
        "other_p99_ratio": percentile(beside, 0.99) / percentile(usual, 0.99),
    }


_MODELS = ("one", "two")


async def _under_load(ledger: Ledger, *work: "asyncio.Future[None] | object") -> None:
    """Do some work while requests come."""
    over = asyncio.Event()
    sending = asyncio.ensure_future(load(ledger, list(_MODELS), _RATE, over))
    try:
        await asyncio.gather(*work)  # type: ignore[arg-type]  # coroutines of no result
    finally:
        over.set()
        await sending


def _alive(server: TrustServer, models: tuple[str, ...]) -> bool:
    return all(server.alive(model) for model in models)


def _large(run: Run) -> Figures:
    """Kill one of two workers of a BERT of 100 MB again and again: how soon are there two?"""
    store = run.folder / "large" / "store"
    megabytes = _write_large(store / "bert")
    recoveries = []
    with trust_server(run, {"bert": 2}, name="large") as server:
        wait_until(lambda: len(_ready(server)) == 2)
        for _ in range(run.amount(10, 100, 2)):
            before = _ready(server)
            begun = time.monotonic()
            os.kill(before[0], signal.SIGKILL)
            _wait_replaced(server, before[0])
            recoveries.append(time.monotonic() - begun)
            answer = httpx.post(f"{server.inference}/predictions/bert", json="fine", timeout=30)
            assert answer.status_code == 200, answer.text
        alive = server.process.poll() is None
    return {
        "large_mb": megabytes,
        "large_kills": len(recoveries),
        "large_recover_p99_s": percentile(recoveries, 0.99),
        "large_alive": int(alive),
    }


def _wait_replaced(server: TrustServer, pid: int) -> None:
    wait_until(lambda: pid not in (now := _ready(server)) and len(now) == 2)


def _ready(server: TrustServer) -> list[int]:
    workers = httpx.get(f"{server.management}/models/bert", timeout=30).json()[0]["workers"]
    return [each["pid"] for each in workers if each["status"] == "READY"]


def _write_large(folder: Path) -> int:
    """A BERT of 25 million random parameters for the native handler. Returns its megabytes."""
    import transformers

    tiny_model(folder, "text-classification")
    config = transformers.AutoConfig.from_pretrained(folder)
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 512, 2048, 8
    config.num_attention_heads = 8
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    settings = {"handler": {"task": "text-classification"}}
    (folder / "model-config.yaml").write_text(json.dumps(settings))
    model = {
        "modelName": folder.name,
        "modelVersion": "1.0",
        "handler": "transformers_handler",
        "configFile": "model-config.yaml",
    }
    (folder / "MAR-INF").mkdir()
    (folder / "MAR-INF" / "MANIFEST.json").write_bytes(msgspec.json.encode({"model": model}))
    return (folder / "model.safetensors").stat().st_size // 10**6


def _no_retry() -> None:
    """Requests of a dead worker fail at once."""
    vars(batcher)["MAX_ATTEMPTS"] = 1


def _slow_restart() -> None:
    """A dead worker's place stays empty for three seconds."""
    vars(slot)["BACKOFF_SECONDS"] = (3,) * len(slot.BACKOFF_SECONDS)


def _no_timeout() -> None:
    """A worker that hangs is left alone."""

    def do_nothing(self: WorkerProcess, batch: int) -> None:
        """Leave it."""

    WorkerProcess._expire = do_nothing  # type: ignore[method-assign]


SUITE = Suite(
    name="t8",
    title="worker chaos",
    promises=("G1", "G2", "G3", "G4", "G6"),
    limits=(
        Limit("kills_short", exactly=0),
        Limit("kinds", exactly=_KINDS),
        Limit("unanswered", exactly=0),
        Limit("errors", exactly=0),
        Limit("wrong", exactly=0),
        Limit("faults_answered_otherwise", exactly=0),
        Limit("recover_p99_s", high=1),
        Limit("server_alive", exactly=1),
        Limit("large_mb", low=100),
        Limit("large_recover_p99_s", high=3),
        Limit("large_alive", exactly=1),
    ),
    controls={
        "no-retry": _no_retry,
        "slow-restart": _slow_restart,
        "no-timeout": _no_timeout,
    },
    run=run,
    alone=True,
)
