"""`metrics_mode`, metric lines and `metrics.yaml` (sections 7.1, 7.4, 7.5)."""

import contextlib
import logging
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flambeau.telemetry.logging import configure_logging
from flambeau.testing.echo import predict, register, write_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until
from tests.telemetry.metric_models import REPORTER, families, shape

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3}"
HOST = re.escape(socket.gethostname())
PER_MODEL = (
    "ts_inference_requests_total",
    "ts_inference_latency_microseconds",
    "ts_queue_latency_microseconds",
)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Log files of this test's own, metric logs in a folder beside; none at the end."""
    configure_logging(tmp_path / "logs", metrics_folder=tmp_path / "metrics", console=None)
    yield tmp_path / "metrics"
    configure_logging(None, console=None)
    for name in ("ACCESS_LOG", "MODEL_LOG", "flambeau", "uvicorn", "asyncio"):
        logging.getLogger(name).propagate = True
        logging.getLogger(name).setLevel(logging.NOTSET)


@contextlib.contextmanager
def serving(tmp_path: Path, **config: object) -> Iterator[RunningServer]:
    """A server that has answered one request and refused one."""
    write_model(tmp_path / "store", "reporter", REPORTER)
    manifest = tmp_path / "store" / "reporter" / "MAR-INF" / "MANIFEST.json"
    manifest.write_text(manifest.read_text().replace("handler.py:handle", "handler.py"))
    with running_server(tmp_path / "store", tmp_path / "cache", **config) as server:
        assert register(server, "reporter").status_code == 200
        assert predict(server, "reporter", x_do="all").status_code == 200
        assert predict(server, "nobody").status_code == 404
        yield server


def lines(folder: Path, name: str) -> list[str]:
    return (folder / name).read_text().splitlines()


def own_lines(folder: Path) -> str:
    return (folder / "ts_metrics.log").read_text()


def test_log_mode_writes_lines_and_fills_the_endpoint(folder: Path, tmp_path: Path) -> None:
    """TorchServe's lines word for word; its endpoint is empty in this mode, ours is not."""
    with serving(tmp_path) as server:
        assert families(server)["ts_inference_requests_total"]
        assert families(server)["Requests4XX_total"] == {("Level=Host",): 1}
        wait_until(lambda: "Requests4XX" in own_lines(folder))
        wait_until(lambda: "DiskUtilization" in own_lines(folder))
        wait_until(lambda: "PredictionTime" in (folder / "model_metrics.log").read_text())
    assert all(shape(line)[3] for line in lines(folder, "model_metrics.log"))
    assert not any(shape(line)[3] for line in lines(folder, "ts_metrics.log"))
    number, end = r"\d+(\.\d+)?(e-\d+)?", rf"#hostname:{HOST},timestamp:\d{{10}}"
    own = "\n".join(lines(folder, "ts_metrics.log"))
    for text in (
        rf"Requests4XX\.Count:1\.0\|#Level:Host\|{end}",
        rf"ts_inference_requests_total\.Count:1\.0\|#model_name:reporter,model_version:default\|{end}",
        rf"ts_inference_latency_microseconds\.Microseconds:{number}\|#model_name:reporter,"
        rf"model_version:default\|{end}",
        rf"QueueTime\.Milliseconds:{number}\|#Level:Host\|{end}",
        rf"WorkerThreadTime\.Milliseconds:{number}\|#Level:Host\|{end}",
        rf"WorkerLoadTime\.Milliseconds:\d+\.0\|#WorkerName:W-9000-reporter_1\.0,Level:Host\|{end}",
        rf"CPUUtilization\.Percent:{number}\|#Level:Host\|{end}",
        rf"DiskAvailable\.Gigabytes:{number}\|#Level:Host\|{end}",
    ):
        assert re.search(rf"^{TIME} - {text}$", own, re.MULTILINE), text
    reported = "\n".join(lines(folder, "model_metrics.log"))
    ids = r"[0-9a-f-]{36}"
    end = rf"#hostname:{HOST},requestID:%s,timestamp:\d{{10}}"
    for text, request in (
        (r"InitTime\.Seconds:3\.5\|#ModelName:reporter,Level:Model\|", ids),
        (r"Rows\.Count:1\.0\|#ModelName:reporter,Level:Model\|", ids),
        (r"Size\.Kilobytes:7\.0\|#ModelName:reporter,Level:Model\|", ids),
        (r"Oops\.unit:1\.0\|#Level:Error\|", "null"),
        (r"Spread\.Seconds:0\.3\|#Lang:fr,ModelName:reporter,Level:Model\|", ids),
        (rf"PredictionTime\.ms:{number}\|#ModelName:reporter,Level:Model\|", ids),
    ):
        assert re.search(rf"^{TIME} - {text}{end % request}$", reported, re.MULTILINE), text


def test_prometheus_mode_writes_no_lines(folder: Path, tmp_path: Path) -> None:
    """The files are there and stay empty."""
    with serving(tmp_path, metrics_mode="prometheus") as server:
        assert families(server)["Rows_total"]
        assert families(server)["Requests4XX_total"] == {("Level=Host",): 1}
    assert lines(folder, "ts_metrics.log") == []
    assert lines(folder, "model_metrics.log") == []


def test_legacy_mode_splits_them(folder: Path, tmp_path: Path) -> None:
    """Three counters on the endpoint, everything else in the logs."""
    with serving(tmp_path, metrics_mode="legacy") as server:
        assert set(families(server)) == {
            name.removesuffix("_total") + "_total" for name in PER_MODEL
        }
        wait_until(lambda: "Requests4XX" in own_lines(folder))
        wait_until(lambda: "Rows.Count" in (folder / "model_metrics.log").read_text())
    assert not [line for line in lines(folder, "ts_metrics.log") if " - ts_" in line]


def test_a_metric_that_is_left_out_is_not_produced(folder: Path, tmp_path: Path) -> None:
    """Neither on the endpoint nor as a line; labels have the names that the file gives them."""
    file = tmp_path / "metrics.yaml"
    file.write_text(
        "ts_metrics:\n  counter:\n  - {name: Requests2XX, unit: Answers, dimensions: [l, h]}\n"
        "  histogram:\n  - {name: QueueTime, unit: ms, dimensions: [Level]}\n"
        "model_metrics:\n  gauge:\n  - {name: PredictionTime, unit: ms, dimensions: [ModelName, Level]}\n"
    )
    with serving(tmp_path, metrics_config=file) as server:
        text = httpx.get(f"{server.metrics}/metrics").text
        wait_until(lambda: "Requests2XX.Answers:1.0|#l:Host" in own_lines(folder))
    assert re.search(r'Requests2XX\{l="Host",h="[^"]+",\} \d', text)
    assert "Requests4XX" not in text + own_lines(folder)
    assert "ts_inference" not in text + own_lines(folder)
    assert "QueueTime" not in text
    told = (tmp_path / "logs" / "ts_log.log").read_text()
    assert "QueueTime is not produced: it has 2 dimensions, but 1 are declared: Level." in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model_metrics: [", "is not valid YAML"),
        ("ts_metrics: {}\n", "it has no model_metrics"),
        ("model_metrics: {gauge: [{name: A}]}", "`unit` - at `model_metrics.gauge[0]`"),
        (
            "model_metrics: {gauge: [{name: A, unit: 3}]}",
            "got `int` - at `model_metrics.gauge[0].unit`",
        ),
        ("model_metrics: {gauges: []}", "unknown field `gauges` - at `model_metrics`"),
        (
            "model_metrics: {gauge: [{name: A, unit: s}, {name: A, unit: s}]}",
            "model_metrics.gauge[1]: A is declared twice",
        ),
    ],
)
def test_a_wrong_file_ends_the_start(tmp_path: Path, text: str, told: str) -> None:
    """One line that names the file and the entry, exit code 1."""
    (tmp_path / "m.yaml").write_text(text)
    (tmp_path / "config.properties").write_text("metrics_config=m.yaml\n")
    command = [sys.executable, "-m", "flambeau.cli.torchserve", "--start", "--foreground"]
    command += ["--ncs", "--model-store", ".", "--ts-config", "config.properties"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    last = done.stdout.splitlines()[-1]
    assert done.returncode == 1
    assert "Invalid metrics configuration" in last
    assert "m.yaml" in last
    assert told in last
