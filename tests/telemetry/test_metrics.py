"""The metrics API: TorchServe's names and filter, and series that end with their models."""

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from flambeau.testing.echo import predict, register, worker_pids, write_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    store = tmp_path_factory.mktemp("store")
    write_model(store, "echo")
    write_model(store, "brief")
    with running_server(
        store, tmp_path_factory.mktemp("cache"), disable_system_metrics=True
    ) as running:
        register(running, "echo")
        predict(running, "echo", x_do="raise")
        for name in ("echo", "echo/1.0", "nobody"):  # a sample of each class of responses
            predict(running, name)
        yield running


def samples(server: RunningServer, query: str = "") -> dict[str, float]:
    text = httpx.get(f"{server.metrics}/metrics{query}").text
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_content_type_methods_and_paths(server: RunningServer) -> None:
    """Any method, any path below; other paths are unknown (section 7.1)."""
    for method, path in (("GET", "metrics"), ("POST", "metrics/any/thing/")):
        answer = httpx.request(method, f"{server.metrics}/{path}")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert httpx.get(f"{server.metrics}/other").status_code == 404


def test_torchserve_s_names_and_labels(server: RunningServer) -> None:
    """As its prometheus mode writes them (section 7.2): nothing is appended to a name."""
    assert predict(server, "echo").status_code == 200
    assert predict(server, "echo/1.0").status_code == 200
    host = socket.gethostname()
    predict(server, "nobody")
    predict(server, "echo", x_do="raise")
    found = samples(server)
    for group in ("2XX", "4XX", "5XX"):
        assert f'Requests{group}{{Level="Host",Hostname="{host}",}}' in found
    for version in ("default", "1.0"):
        labels = f'{{model_name="echo",model_version="{version}",hostname="{host}",}}'
        assert found["ts_inference_requests_total" + labels] >= 1
        assert found["ts_inference_latency_microseconds" + labels] > 0
        assert found["ts_queue_latency_microseconds" + labels] >= 0
    assert f'QueueTime{{Level="Host",Hostname="{host}",}}' in found
    assert re.search(r'WorkerLoadTime\{[^}]*WorkerName="W-\d+-echo_1\.0"', "\n".join(found))
    assert not [name for name in found if "_created" in name]


def test_responses_are_counted_by_class(server: RunningServer) -> None:
    """Each response once, of every listener."""

    def count(group: str) -> float:
        found = (v for k, v in samples(server).items() if k.startswith(f"Requests{group}{{"))
        return next(found, 0)

    before = {group: count(group) for group in ("4XX", "5XX")}
    predict(server, "nobody")
    predict(server, "echo", x_do="raise")
    httpx.get(f"{server.management}/nowhere")
    assert count("4XX") - before["4XX"] == 2
    assert count("5XX") - before["5XX"] == 1


def test_names_filter(server: RunningServer) -> None:
    """Repeated `name[]`, exact names."""
    query = "?name[]=Requests2XX&name[]=ts_inference_requests_total"
    assert {name.partition("{")[0] for name in samples(server, query)} == {
        "Requests2XX",
        "ts_inference_requests_total",
    }
    assert samples(server, "?name[]=Nothing") == {}


def test_failures_carry_their_kind(server: RunningServer) -> None:
    """Requests without an answer, by what went wrong."""
    predict(server, "echo", x_do="raise")
    labels = 'model_name="echo",model_version="1.0",kind="handler_failed",'
    assert samples(server)[f"flambeau_request_failures_total{{{labels}}}"] >= 1


def test_series_end_with_their_model(server: RunningServer) -> None:
    """Registering and unregistering for ever does not fill the memory (R13, G34)."""

    def series() -> set[str]:
        return {name for name in samples(server) if "echo" not in name}

    before = series()
    for _ in range(2):
        register(server, "brief")
        assert predict(server, "brief/1.0").status_code == 200
        assert predict(server, "brief").status_code == 200
        assert series() > before
        assert httpx.delete(f"{server.management}/models/brief").status_code == 200
    assert series() == before


def test_strangers_add_no_series(server: RunningServer) -> None:
    """Names, versions and paths that clients make up are never labels."""
    before = set(samples(server))
    for number in range(20):
        predict(server, f"made-up-{number}")
        predict(server, f"echo/{number}")
    assert set(samples(server)) == before


def test_prometheus_text(server: RunningServer) -> None:
    """TorchServe's very text: help, declared order of labels, a comma at the end, names that are
    not changed; headers of metrics that have no sample; it parses."""
    predict(server, "echo")
    text = httpx.get(f"{server.metrics}/metrics").text
    for name, kind, unit in (
        ("Requests5XX", "counter", "Count"),
        ("ts_inference_latency_microseconds", "counter", "Microseconds"),
        ("WorkerThreadTime", "gauge", "Milliseconds"),
        ("GPUUtilization", "gauge", "Percent"),
        ("PredictionTime", "gauge", "ms"),
    ):
        help_text = f"Torchserve prometheus {kind} metric with unit: {unit}"
        assert f"# HELP {name} {help_text}\n# TYPE {name} {kind}\n" in text
    parsed = {family.name: family for family in text_string_to_metric_families(text)}
    assert parsed["ts_inference_requests"].type == "counter"
    assert "flambeau_queue_seconds" in parsed


def test_filter_by_names_of_samples(server: RunningServer) -> None:
    """A histogram's parts have names of their own; a metric without samples has no headers."""
    predict(server, "echo")

    def ask(name: str) -> str:
        return httpx.get(f"{server.metrics}/metrics", params={"name[]": name}).text

    assert ask("GPUUtilization") == ""
    assert ask("flambeau_queue_seconds") == ""
    assert len(ask("flambeau_queue_seconds_count").splitlines()) == 3
    assert ask("") == ""


def test_refused_requests_count_too(server: RunningServer) -> None:
    """`ts_inference_requests_total` is counted before the queue; latencies of answers only."""
    register(server, "brief", initial_workers=0)
    assert predict(server, "brief").status_code == 503
    found = samples(server, "?name[]=ts_inference_requests_total")
    assert [value for name, value in found.items() if 'model_name="brief"' in name] == [1]
    found = samples(server, "?name[]=ts_inference_latency_microseconds")
    assert not [name for name in found if 'model_name="brief"' in name]
    assert httpx.delete(f"{server.management}/models/brief").status_code == 200
    assert not [name for name in samples(server) if 'model_name="brief"' in name]


def test_a_body_that_is_too_large_counts(tmp_path: Path) -> None:
    """TorchServe counts no 413 (wart 12.1.12)."""
    write_model(tmp_path / "store", "echo")
    with running_server(tmp_path / "store", tmp_path / "cache", max_request_size=10) as server:
        register(server, "echo")
        assert predict(server, "echo", "x" * 100).status_code == 413
        found = samples(server)
        assert next(v for k, v in found.items() if k.startswith("Requests4XX{")) == 1


def test_the_time_in_the_front_end(server: RunningServer) -> None:
    """`WorkerThreadTime`: a batch's time with its worker, less the handler's; in milliseconds."""
    predict(server, "echo")
    found = samples(server, "?name[]=WorkerThreadTime")
    assert [0 <= value < 60_000 for value in found.values()] == [True]


def test_load_time_is_that_of_the_load(server: RunningServer) -> None:
    """Also after a restart: TorchServe's includes the time that the dead worker was up."""
    write_model(Path(server.server.config.model_store or ""), "dies")
    register(server, "dies")

    def load_time() -> float:
        found = samples(server, "?name[]=WorkerLoadTime")
        return next(value for name, value in found.items() if "-dies_1.0" in name)

    pid = worker_pids(server, "dies")[0]
    for _ in range(100):  # an up-time that must not be part of it
        assert predict(server, "dies").status_code == 200
    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: worker_pids(server, "dies") not in ([], [pid]))
    assert 0 < load_time() <= (time.monotonic() - killed) * 1000 + 1  # it is rounded
    assert httpx.delete(f"{server.management}/models/dies").status_code == 200


def test_own_histograms(server: RunningServer) -> None:
    """Queue, handler and whole time per model and version, and the size of batches."""
    before = samples(server)
    predict(server, "echo")
    after = samples(server)
    labels = '{model_name="echo",model_version="1.0",}'
    for name in ("queue_seconds", "handler_seconds", "request_seconds", "batch_items"):
        key = f"flambeau_{name}_count{labels}"
        assert after[key] - before.get(key, 0) == 1
    assert after[f"flambeau_ready_workers{labels}"] == 1
    assert after[f"flambeau_queue_length{labels}"] == 0
