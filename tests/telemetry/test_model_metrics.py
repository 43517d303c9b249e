"""Metrics that handlers report: they reach `/metrics`, within limits (sections 7.5 and 7.6)."""

import logging
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flambeau.telemetry import model_metrics
from flambeau.testing.echo import predict, register, write_model
from flambeau.testing.server import RunningServer, running_server
from tests.telemetry.metric_models import REPORTER, families

MODEL = ("Level=Model", "ModelName=reporter")
DECLARED = """
model_metrics:
  counter:
    - {name: Words, unit: count, dimensions: [City]}
    - {name: Ordered, unit: count, dimensions: [ModelName, Level, Lang]}
  gauge:
    - {name: PredictionTime, unit: ms, dimensions: [ModelName, Level]}
    - {name: AsGauge, unit: ms, dimensions: [ModelName, Level]}
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store")
    write_model(store, "reporter", REPORTER)
    for version in ("1.0", "2.0"):
        write_model(store, "brief", REPORTER, version)
    for manifest in store.glob("*/MAR-INF/MANIFEST.json"):  # the class's own methods
        manifest.write_text(manifest.read_text().replace("handler.py:handle", "handler.py"))
    (store / "declared.yaml").write_text(DECLARED)
    return store


@pytest.fixture(scope="module")
def server(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(store, tmp_path_factory.mktemp("cache")) as running:
        assert register(running, "reporter").status_code == 200
        yield running


@pytest.fixture(scope="module")
def strict(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with a metrics.yaml, which takes nothing else."""
    with running_server(
        store,
        tmp_path_factory.mktemp("cache"),
        metrics_config=store / "declared.yaml",
    ) as running:
        assert register(running, "reporter").status_code == 200
        yield running


def test_what_initialize_reports(server: RunningServer) -> None:
    """It is there once the model is; `idx` may be given although there is no request yet."""
    found = families(server)
    assert found["InitCount_total"] == {MODEL: 2}
    assert found["InitTime"] == {MODEL: 3.5}


def test_every_kind_is_taken_undeclared(server: RunningServer) -> None:
    """With its type, its dimensions, and the unit spelled out; there before the answer is."""
    for _ in range(2):
        assert predict(server, "reporter", x_do="all").status_code == 200
    found = families(server)
    assert found["Rows_total"] == {MODEL: 2}
    assert found["Size"] == {MODEL: 7}
    assert found["Share"] == {MODEL: 12.5}
    assert found["Oops_total"] == {("Level=Error",): 2}
    assert found["Own"] == {('Lang=a"b', *MODEL): 3}
    assert found["Spread_count"] == {("Lang=fr", *MODEL): 2}
    assert found["Spread_sum"] == {("Lang=fr", *MODEL): 0.6}
    assert found["Spread_bucket"][("Lang=fr", *MODEL, "le=0.25")] == 0
    text = httpx.get(f"{server.metrics}/metrics").text
    assert "# HELP Size Torchserve prometheus gauge metric with unit: Kilobytes\n" in text
    assert "# TYPE Rows counter\nRows{" in text


def test_prediction_time_is_always_there(server: RunningServer) -> None:
    """In milliseconds, as a gauge of the model (section 7.3)."""
    predict(server, "reporter")
    assert 0 <= families(server)["PredictionTime"][MODEL] < 60_000


def test_metrics_come_with_each_part_of_an_answer(server: RunningServer, tmp_path: Path) -> None:
    """What a streaming handler reports is there with the part that follows, not only at the end;
    what a handler reported before it failed is there too."""
    gate = tmp_path / "gate"
    url = f"{server.inference}/predictions/reporter"
    headers = {"x-do": "stream", "x-file": str(gate)}
    with httpx.stream("POST", url, headers=headers, timeout=60) as answer:
        parts = answer.iter_text()
        assert next(parts) == "part"
        assert families(server)["Early_total"] == {MODEL: 1}
        assert "Late_total" not in families(server)
        gate.touch()
        assert "".join(parts) == "ok"
    assert families(server)["Late_total"] == {MODEL: 1}
    assert predict(server, "reporter", x_do="fail").status_code == 503
    assert families(server)["BeforeFailure_total"] == {MODEL: 1}


def test_a_printed_metric_is_only_a_line(server: RunningServer) -> None:
    """TorchServe parses what handlers print; a metric store is reported all the same."""
    predict(server, "reporter", x_do="print")
    predict(server, "reporter", x_do="store")
    found = families(server)
    assert "Printed_total" not in found
    assert found["Stored_total"] == {MODEL: 3}
    assert found["StoredTime"] == {MODEL: 2.5}


def test_what_cannot_be_a_series_is_told(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The server's own names, long texts and impossible names; each reason once."""
    predict(server, "reporter")
    before = families(server)
    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            assert predict(server, "reporter", x_do="bad").status_code == 200
    found = families(server)
    assert found.keys() == before.keys()
    assert found["Requests2XX_total"][("Level=Host",)] < 1000
    for part in ("Requests2XX was dropped", "flambeau_queue_length was dropped", "256 characters"):
        assert caplog.text.count(part) == 1
    assert caplog.text.count("Metric not a name is in the log only") == 1
    for part in ("a counter cannot go down", "'abc' is no number", "nan is not finite"):
        assert part in caplog.text  # the handler's own log


def test_the_number_of_series_is_limited(
    server: RunningServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes after the limit is not on `/metrics`; one error line says so."""
    monkeypatch.setattr(model_metrics, "MAX_SERIES", len(_series(server)) + 5)
    with caplog.at_level(logging.ERROR):
        predict(server, "reporter", x_do="many", x_count="50")
    assert 0 < len(families(server)["Many_total"]) <= 5
    assert caplog.text.count("Further series are not on /metrics") == 1


def _series(server: RunningServer) -> list[tuple[str, tuple[str, ...]]]:
    owners = server.server.core.metrics._model._owners
    return list(owners)


def test_series_end_with_the_last_version_that_has_them(server: RunningServer) -> None:
    """Handlers' labels have no version: two versions share a series.

    A metric that nobody declared ends with its last series.
    """
    before = families(server)
    text = httpx.get(f"{server.metrics}/metrics").text
    for folder in ("brief", "brief-2.0"):
        assert register(server, folder).status_code == 200
    for version in ("1.0", "2.0"):
        assert predict(server, f"brief/{version}", x_do="all").status_code == 200
        predict(server, f"brief/{version}", x_do="brief")
    brief = ("Level=Model", "ModelName=brief")
    assert families(server)["Rows_total"][brief] == 2
    assert httpx.delete(f"{server.management}/models/brief/2.0").status_code == 200
    assert families(server)["Rows_total"][brief] == 2
    assert httpx.delete(f"{server.management}/models/brief").status_code == 200
    assert {key: set(series) for key, series in families(server).items()} == {
        key: set(series) for key, series in before.items()
    }
    types = [line for line in text.splitlines() if line.startswith("# TYPE")]
    after = httpx.get(f"{server.metrics}/metrics").text.splitlines()
    assert [line for line in after if line.startswith("# TYPE")] == types


def test_declared_metrics(strict: RunningServer) -> None:
    """metrics.yaml says type and unit; handlers get what it declares; the order of dimensions
    does not matter."""
    assert predict(strict, "reporter", x_do="declared").status_code == 200
    found = families(strict)
    assert found["Words_total"] == {("City=Ulm",): 4}
    assert found["Ordered_total"] == {("Lang=fr", *MODEL): 1}
    assert found["AsGauge"] == {MODEL: 6}
    text = httpx.get(f"{strict.metrics}/metrics").text
    assert "# HELP AsGauge Torchserve prometheus gauge metric with unit: ms\n" in text


def test_other_dimensions_than_declared(
    strict: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    """An error line, and the value is dropped."""
    # a worker of its own: the metric that it has keeps the other dimensions
    assert register(strict, "reporter", model_name="mismatching").status_code == 200
    before = families(strict).get("Words_total")
    with caplog.at_level(logging.ERROR):
        assert predict(strict, "mismatching", x_do="mismatch").status_code == 200
    assert families(strict).get("Words_total") == before
    assert "it has the dimensions ['City'], but the values are" in caplog.text
    assert "came with the dimensions ['A', 'B'], but ['City'] are declared" in caplog.text


def test_a_list_of_metrics_is_the_list(
    strict: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    """With a metrics_config, what it lacks is dropped, and told once: nobody switched that off."""
    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            assert predict(strict, "reporter", x_do="all").status_code == 200
    assert not {"Rows_total", "Size", "Own", "HandlerTime"} & families(strict).keys()
    assert caplog.text.count("Metric Rows was dropped: metrics_config does not declare it") == 1


def test_a_metric_that_ts_metrics_lacks_is_not_produced(strict: RunningServer) -> None:
    """The file has no ts_metrics at all: none of TorchServe's, but Flambeau's own."""
    predict(strict, "reporter")
    names = families(strict).keys()
    assert not [name for name in names if name.startswith(("Requests", "ts_", "Queue", "CPU"))]
    assert "flambeau_request_seconds_count" in names
