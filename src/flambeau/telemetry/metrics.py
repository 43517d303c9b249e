"""Every metric that Flambeau exports, declared once.

The first group has TorchServe's names (contract.md section 7.2), so that dashboards go on working;
the second is ours. Labels are bounded: model names and versions of registered models only.
"""

import socket
from collections.abc import Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_MODEL = ("model_name", "model_version")

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

disable_created_metrics()  # type: ignore[no-untyped-call]  # `…_created` series: nobody reads them


class _PlainCounter(Gauge):
    """A counter under its own name: the library's `Counter` insists on a name in `…_total`."""

    _type = "unknown"


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._host = socket.gethostname()
        self._responses = {
            group: _PlainCounter(
                f"Requests{group}", f"HTTP responses {group}", ("Level", "Hostname"),
                registry=self.registry,
            ).labels("Host", self._host)
            for group in ("2XX", "4XX", "5XX")
        }  # fmt: skip
        self._requests = self._counter(
            "ts_inference_requests", "Accepted inference requests", (*_MODEL, "hostname")
        )
        self._latency = _PlainCounter(
            "ts_inference_latency_microseconds",
            "Sum of the time from arrival to answer of successful requests",
            (*_MODEL, "hostname"),
            registry=self.registry,
        )
        self._queue_latency = _PlainCounter(
            "ts_queue_latency_microseconds",
            "Sum of the time in the queue of successful requests",
            (*_MODEL, "hostname"),
            registry=self.registry,
        )
        self._queue_time = Gauge(
            "QueueTime", "Last time in the queue, milliseconds", ("Level", "Hostname"),
            registry=self.registry,
        ).labels("Host", self._host)  # fmt: skip
        self._load_time = Gauge(
            "WorkerLoadTime", "Time to start a worker and load its model, milliseconds",
            ("WorkerName", "Level", "Hostname"), registry=self.registry,
        )  # fmt: skip
        self._queue_seconds = self._histogram("queue_seconds", "Time in the queue")
        self._handler_seconds = self._histogram("handler_seconds", "Time of a batch in the handler")
        self._batch_items = self._histogram(
            "batch_items", "Requests in a batch", (1, 2, 4, 8, 16, 32, 64, 128)
        )
        self._failures = self._counter(
            "flambeau_request_failures", "Requests without an answer", (*_MODEL, "kind")
        )
        self._worker_ends = self._counter(
            "flambeau_worker_deaths", "Workers that died or could not load", _MODEL
        )
        self._waiting = Gauge(
            "flambeau_queue_length", "Requests that wait", _MODEL, registry=self.registry
        )
        self._ready = Gauge(
            "flambeau_ready_workers", "Workers with a loaded model", _MODEL, registry=self.registry
        )

    def response(self, status: int) -> None:
        """Count one HTTP response of any listener."""
        group = {2: "2XX", 4: "4XX"}.get(status // 100, "5XX")
        self._responses[group].inc()

    def accepted(self, name: str, asked_version: str) -> None:
        """Count one accepted request; the version is `default` where the client named none."""
        self._requests.labels(name, asked_version or "default", self._host).inc()

    def answered(self, name: str, asked_version: str, total: float, queued: float) -> None:
        """Record one successful answer. Times in seconds."""
        labels = (name, asked_version or "default", self._host)
        self._latency.labels(*labels).inc(total * 1e6)
        self._queue_latency.labels(*labels).inc(queued * 1e6)
        self._queue_time.set(round(queued * 1e3, 3))

    def failed(self, name: str, version: str, kind: str) -> None:
        """Count one request without an answer."""
        self._failures.labels(name, version, kind).inc()

    def batch(self, name: str, version: str, queued: Iterable[float], handler: float) -> None:
        """Record one batch: each request's time in the queue, and the handler's time."""
        count = 0
        for seconds in queued:
            self._queue_seconds.labels(name, version).observe(seconds)
            count += 1
        self._batch_items.labels(name, version).observe(count)
        self._handler_seconds.labels(name, version).observe(handler)

    def worker_loaded(self, worker: str, seconds: float) -> None:
        """Record how long a worker took to be ready."""
        self._load_time.labels(worker, "Host", self._host).set(round(seconds * 1e3))

    def worker_died(self, name: str, version: str) -> None:
        """Count one worker that died or could not load."""
        self._worker_ends.labels(name, version).inc()

    def model_state(self, name: str, version: str, waiting: int, ready: int) -> None:
        """Set a model's gauges."""
        self._waiting.labels(name, version).set(waiting)
        self._ready.labels(name, version).set(ready)

    def forget(self, name: str, version: str) -> None:
        """Drop the series of a model that is gone."""
        series = {"model_name": name, "model_version": version}
        for metric in (
            self._waiting, self._ready, self._requests, self._latency, self._queue_latency,
            self._failures, self._worker_ends, self._queue_seconds, self._handler_seconds,
            self._batch_items,
        ):  # fmt: skip
            metric.remove_by_labels(series)

    def forget_worker(self, worker: str) -> None:
        """Drop the series of a worker that is gone for good: its number never comes back."""
        self._load_time.remove_by_labels({"WorkerName": worker})

    def render(self, names: list[str]) -> bytes:
        """The Prometheus text format, of all metrics or of those named."""
        registry = self.registry.restricted_registry(names) if names else self.registry
        return generate_latest(registry)

    def _counter(self, name: str, help_text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, help_text, labels, registry=self.registry)

    def _histogram(
        self, name: str, help_text: str, buckets: tuple[float, ...] = _SECONDS
    ) -> Histogram:
        return Histogram(
            f"flambeau_{name}", help_text, _MODEL, buckets=buckets, registry=self.registry
        )
