"""Describe calls: what the server knows, and what the handler tells (contract.md section 6.3)."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from flambeau.telemetry.gpu import read_gpus
from flambeau.testing.echo import Gate, describe, predict, register, write_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until

TELLING = """
from ts.torch_handler.base_handler import BaseHandler

class Telling(BaseHandler):
    def initialize(self, context):
        self.context = context

    def handle(self, data, context):
        if context.get_request_header(0, "describe") == "True":
            return [self.tell(data)]
        return [f"{len(data)}"] * len(data)

    def tell(self, data):
        return {"about": "me", "rows": data}
"""


def described(server: RunningServer, model: str, query: str) -> httpx.Response:
    return httpx.get(f"{server.management}/models/{model}{query}", timeout=60)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    store = tmp_path_factory.mktemp("store")
    for name, source in {
        "telling": TELLING,
        "listing": TELLING.replace('return {"about": "me", "rows": data}', "return [1]"),
        "silent": TELLING.replace('return {"about": "me", "rows": data}', "return ''"),
        "raising": TELLING.replace('return {"about": "me", "rows": data}', "raise ValueError"),
    }.items():
        folder = write_model(store, name, source, batchSize=4)
        manifest = folder / "MAR-INF" / "MANIFEST.json"
        manifest.write_text(manifest.read_text().replace("handler.py:handle", "handler.py"))
    write_model(store, "echo")
    with running_server(store, tmp_path_factory.mktemp("cache")) as running:
        for name in ("telling", "listing", "silent", "raising"):
            assert register(running, name).status_code == 200
        yield running


@pytest.mark.parametrize("query", ["?customized=true", "?customized=TRUE"])
def test_the_handler_is_asked(server: RunningServer, query: str) -> None:
    """With an empty row and the header `describe`; its dict is `customizedMetadata`."""
    for path in ("telling", "telling/1.0"):
        (document,) = described(server, path, query).json()
        assert document["customizedMetadata"] == {"about": "me", "rows": [{}]}
        keys = list(document)
        assert keys.index("customizedMetadata") == keys.index("jobQueueStatus") + 1


@pytest.mark.parametrize(
    "query", ["", "?customized=false", "?customized=1", "/all?customized=true"]
)
def test_the_handler_is_not_asked(server: RunningServer, query: str) -> None:
    """Without the parameter, and never for all versions."""
    (document,) = described(server, "telling", query).json()
    assert "customizedMetadata" not in document


@pytest.mark.parametrize("model", ["listing", "silent"])
def test_what_is_no_object_is_an_empty_one(server: RunningServer, model: str) -> None:
    """A list, text that is no JSON."""
    assert described(server, model, "?customized=true").json()[0]["customizedMetadata"] == {}


def test_errors_of_a_describe(server: RunningServer) -> None:
    """The handler's own; no worker; no model."""
    failed = described(server, "raising", "?customized=true")
    assert (failed.status_code, failed.json()["message"]) == (503, "Prediction failed")
    assert register(server, "echo", initial_workers=0).status_code == 200
    nobody = described(server, "echo", "?customized=true")
    assert nobody.json() == {
        "code": 503,
        "type": "ServiceUnavailableException",
        "message": 'Model "echo" has no worker to serve describe request.'
        " Please use scale workers API to add workers.",
    }
    assert described(server, "echo", "").json()[0]["workers"] == []
    assert httpx.delete(f"{server.management}/models/echo").status_code == 200
    for query in ("", "?customized=true", "/9?customized=true"):
        assert described(server, "nobody", query).status_code == 404


def test_no_answer_to_a_describe_in_time(server: RunningServer, gate: Gate) -> None:
    """504 in TorchServe's words, spelled well."""
    source = f"""
import os, time
def handle(data, context):
    while data is not None and not os.path.exists({str(gate.file)!r}):
        time.sleep(0.005)
    return [""] * len(data or [])
"""
    store = server.server.config.model_store
    assert store is not None
    write_model(store, "stuck", source, responseTimeout=1)
    assert register(server, "stuck").status_code == 200
    answer = described(server, "stuck", "?customized=true")
    assert answer.status_code == 504
    assert answer.json()["message"].startswith("Failed to get customized model metadata")
    gate.open()
    assert httpx.delete(f"{server.management}/models/stuck").status_code == 200


def test_a_describe_shares_its_batch_with_nobody(server: RunningServer, gate: Gate) -> None:
    """It waits in the queue between predictions, which the handler answers without it."""
    store = server.server.config.model_store
    assert store is not None
    folder = write_model(store, "shared", batchSize=8)
    source = (folder / "handler.py").read_text()
    told = (
        '    if context.get_request_header(0, "describe"):\n        return [{"rows": len(data)}]\n'
    )
    (folder / "handler.py").write_text(source.replace("    sizes = ", f"{told}    sizes = "))
    assert register(server, "shared").status_code == 200
    calls = [
        lambda: predict(server, "shared"),
        lambda: described(server, "shared", "?customized=true"),
        lambda: predict(server, "shared"),
    ]
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(predict, server, "shared", **gate.headers)
        gate.wait_entered()
        futures = []
        for call in calls:
            futures.append(threads.submit(call))
            wait_until(lambda: _pending(server) == len(futures))  # called now
        gate.open()
        assert first.result(60).status_code == 200
        before, told_of, after = (future.result(60) for future in futures)
    assert (before.json()["batch"], after.json()["batch"]) == (1, 1)
    assert told_of.json()[0]["customizedMetadata"] == {"rows": 1}
    assert httpx.delete(f"{server.management}/models/shared").status_code == 200


def _pending(server: RunningServer) -> object:
    status = describe(server, "shared")["jobQueueStatus"]
    assert isinstance(status, dict)
    return status["pendingRequests"]


def test_gpu_usage_is_the_vendor_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line of text from `nvidia-smi`; nothing where there is none, or it fails."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_gpus() == {}
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\necho '1, 7, 2, 931'\n")
    command.chmod(0o755)
    assert {index: str(usage) for index, usage in read_gpus().items()} == {
        1: "gpuId::1 utilization.gpu::7 % utilization.memory::2 % memory.used::931 MiB"
    }
    command.write_text("#!/bin/sh\nexit 9\n")
    assert read_gpus() == {}
