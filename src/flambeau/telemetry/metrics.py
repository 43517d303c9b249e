"""Every metric of the server: TorchServe's (contract.md section 7) and ours.

TorchServe's are those that `metrics.yaml` declares, so that dashboards go on working. Ours begin
with `flambeau_`, and are histograms and gauges that TorchServe has not. Labels are bounded: names
and versions of registered models only.
"""

import logging
import socket
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

from flambeau.telemetry.families import Family, Labels, sample_names
from flambeau.telemetry.metric_lines import MODEL_METRICS, TS_METRICS, MetricLines, WriteValue
from flambeau.telemetry.metrics_config import MetricsConfig
from flambeau.telemetry.model_metrics import ModelMetrics
from flambeau.telemetry.own_metrics import OwnMetrics
from flambeau.telemetry.server_metrics import ServerMetrics
from flambeau.types import MetricSample, MetricSpec, ModelKey, Phases

logger = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_OF_REQUESTS = (
    "ts_inference_requests_total",
    "ts_inference_latency_microseconds",
    "ts_queue_latency_microseconds",
)
"""Per model and version; in `legacy` mode they are all that `/metrics` has."""

_DIMENSIONS = (
    dict.fromkeys(("Requests2XX", "Requests4XX", "Requests5XX", "QueueTime", "WorkerThreadTime"), 2)
    | dict.fromkeys(("CPUUtilization", "MemoryUsed", "MemoryAvailable", "MemoryUtilization"), 2)
    | dict.fromkeys(("DiskUsage", "DiskUtilization", "DiskAvailable"), 2)
    | dict.fromkeys(
        ("WorkerLoadTime", "GPUMemoryUtilization", "GPUMemoryUsed", "GPUUtilization"), 3
    )
    | dict.fromkeys(_OF_REQUESTS, 3)
)
"""How many dimensions the server gives each metric; `metrics.yaml` may name them as it likes."""


class _Series(NamedTuple):
    """Where one series' values go: to its numbers and, in some modes, to a log."""

    take: Callable[[float], None]
    write: WriteValue | None


class Metrics:
    """The metrics of one server."""

    def __init__(
        self, config: MetricsConfig, mode: str = "log", *, auto_detect: bool = True
    ) -> None:
        """`mode` is TorchServe's `metrics_mode`: log, prometheus or legacy (section 7.1)."""
        self._mode = mode
        self._host = socket.gethostname()
        self._lines = None if mode == "prometheus" else MetricLines(TS_METRICS, self._host)
        self._own = OwnMetrics()
        self.server = ServerMetrics()
        self._specs = {name: spec for name, spec in config.ts.items() if _usable(spec)}
        self._families = {name: Family(spec) for name, spec in self._specs.items()}
        reserved = [
            name
            for family in (*self._families.values(), *self._own.families(), *self.server.families())
            for name in sample_names(family.spec)
        ]
        model_lines = None if mode == "prometheus" else MetricLines(MODEL_METRICS, self._host)
        self._model = ModelMetrics(
            config.model, reserved, self._host, model_lines, auto_detect=auto_detect
        )
        self._series: dict[tuple[str, Labels], _Series] = {}
        self._alive: Counter[ModelKey] = Counter()
        self.declared = tuple(config.model.values())

    def response(self, status: int) -> None:
        """Count one HTTP response of any listener."""
        group = {2: "2XX", 4: "4XX"}.get(status // 100, "5XX")
        self._update(f"Requests{group}", ("Host",), 1)

    def begin(self, key: ModelKey) -> None:
        """A model is being served; `forget` ends it."""
        self._alive[key] += 1

    def accepted(self, key: ModelKey, asked_version: str) -> None:
        """Count one request for a model; the version is `default` where the client named none."""
        if self._alive[key]:
            self._update("ts_inference_requests_total", (key.name, asked_version or "default"), 1)

    def answered(self, key: ModelKey, asked_version: str, total: float, queued: float) -> None:
        """Record one successful answer. Times in seconds."""
        if not self._alive[key]:
            return  # the model has gone: no series may begin again
        labels = (key.name, asked_version or "default")
        self._update("ts_inference_latency_microseconds", labels, round(total * 1e6, 3))
        self._update("ts_queue_latency_microseconds", labels, round(queued * 1e6, 3))
        self._update("QueueTime", ("Host",), round(queued * 1e3, 3))
        self._own.answered(key, total)

    def failed(self, key: ModelKey, kind: str) -> None:
        """Count one request without an answer."""
        if self._alive[key]:
            self._own.failed(key, kind)

    def batch(self, key: ModelKey, queued: Iterable[float], worker: float, handler: float) -> None:
        """Record one batch: each request's time in the queue, the time that the batch was with the
        worker, and the handler's part of it."""
        self._own.batch(key, queued, handler)
        self._update("WorkerThreadTime", ("Host",), round(max(worker - handler, 0) * 1e3, 3))

    def measured(
        self, key: ModelKey, samples: Iterable[MetricSample], phases: Iterable[Phases]
    ) -> None:
        """Take what a worker reports."""
        for sample in samples:
            self._model.record(key, sample)
        for one in phases:
            self._own.phases(key, one)

    def worker_loaded(self, worker: str, seconds: float) -> None:
        """Record how long a worker took to be ready."""
        self._update("WorkerLoadTime", (worker, "Host"), round(seconds * 1e3))

    def worker_died(self, key: ModelKey) -> None:
        """Count one worker that died or could not load."""
        self._own.worker_died(key)

    def model_state(self, key: ModelKey, waiting: int, ready: int) -> None:
        """Set a model's gauges."""
        if self._alive[key]:
            self._own.state(key, waiting, ready)

    def system(self, readings: Iterable[tuple[str, tuple[str, ...], float]]) -> None:
        """Take readings of the machine: name, further dimensions (a GPU's number), value."""
        for name, dimensions, value in readings:
            self._update(name, ("Host", *dimensions), value)

    def forget(self, key: ModelKey) -> None:
        """Drop the series of a model that is gone."""
        self._alive[key] -= 1
        if self._alive[key] > 0:
            return  # registered again while the old one was finishing its work
        del self._alive[key]
        self._own.forget(key)
        self._model.forget(key)
        versions = {key.version}
        if all(other.name != key.name for other in self._alive):
            versions.add("default")
        self._end(_OF_REQUESTS, lambda labels: labels[0] == key.name and labels[1] in versions)

    def forget_worker(self, worker: str) -> None:
        """Drop the series of a worker that is gone for good: its number never comes back."""
        self._end(("WorkerLoadTime",), lambda labels: labels[0] == worker)

    def render(self, names: list[str]) -> bytes:
        """The text format of all metrics, or of the samples that are named."""
        wanted = frozenset(names)
        lines = [line for family in self._published() for line in family.render(wanted)]
        return "".join(f"{line}\n" for line in lines).encode()

    def _published(self) -> Iterator[Family]:
        if self._mode == "legacy":
            yield from (self._families[name] for name in _OF_REQUESTS if name in self._families)
            return
        yield from self._families.values()
        yield from self._model.families()
        yield from self._own.families()
        yield from self.server.families()

    def _update(self, name: str, labels: Labels, value: float) -> None:
        """Take a value of one of TorchServe's metrics, if it is to be produced."""
        if name not in self._specs:
            return
        series = self._series.get((name, labels))
        if series is None:
            series = self._series[name, labels] = self._new_series(name, labels)
        series.take(value)
        if series.write is not None:
            series.write(value, None)

    def _new_series(self, name: str, labels: Labels) -> _Series:
        write = None
        if self._lines is not None and not (self._mode == "legacy" and name in _OF_REQUESTS):
            write = self._lines.series(self._specs[name], labels)
        return _Series(self._families[name].series((*labels, self._host)), write)

    def _end(self, names: Collection[str], ended: Callable[[Labels], bool]) -> None:
        for name in names:
            if name in self._families:
                self._families[name].remove_where(ended)
        for known in [known for known in self._series if known[0] in names and ended(known[1])]:
            del self._series[known]


def _usable(spec: MetricSpec) -> bool:
    """Whether the server can produce what is declared; an error line says why not."""
    given = _DIMENSIONS.get(spec.name)
    if given is None:
        logger.warning("metrics_config: ts_metrics has no metric %s: it stays empty.", spec.name)
    elif given != len(spec.dimensions):
        logger.error(
            "metrics_config: %s is not produced: it has %d dimensions, but %d are declared: %s.",
            spec.name, given, len(spec.dimensions), ", ".join(spec.dimensions),
        )  # fmt: skip
        return False
    return bool(spec.dimensions)
