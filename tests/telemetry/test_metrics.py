"""The metrics API: TorchServe's names and filter, and series that end with their models."""

import re
import socket
from collections.abc import Iterator

import httpx
import pytest

from flambeau.testing.echo import predict, register, write_model
from flambeau.testing.server import RunningServer, running_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    store = tmp_path_factory.mktemp("store")
    write_model(store, "echo")
    write_model(store, "brief")
    with running_server(store, tmp_path_factory.mktemp("cache")) as running:
        register(running, "echo")
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
