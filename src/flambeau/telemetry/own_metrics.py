"""Flambeau's own metrics, `flambeau_…`: the histograms and gauges that TorchServe has not."""

from collections.abc import Iterable, Iterator

from flambeau.telemetry.families import Family
from flambeau.types import MetricKind, MetricSpec, ModelKey, Phases

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128)
_TOKENS = (16, 64, 256, 1024, 4096, 16384, 65536)
_SHARES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7)


class OwnMetrics:
    """One series per model and version in each family."""

    def __init__(self) -> None:
        self._families: list[Family] = []
        self._request = self._histogram("request_seconds", "Time from arrival to answer", _SECONDS)
        self._queue = self._histogram("queue_seconds", "Time in the queue", _SECONDS)
        self._handler = self._histogram(
            "handler_seconds", "Time of a batch in the handler", _SECONDS
        )
        self._tokenise = self._histogram(
            "tokenise_seconds", "Time of a batch in the tokenizer (native handler)", _SECONDS
        )
        self._compute = self._histogram(
            "compute_seconds", "Time of a batch in the model (native handler)", _SECONDS
        )
        self._postprocess = self._histogram(
            "postprocess_seconds", "Time of a batch from outputs to answers (native)", _SECONDS
        )
        self._items = self._histogram("batch_items", "Requests in a batch", _ITEMS)
        self._tokens = self._histogram(
            "batch_tokens", "Tokens of a batch, read and generated (native handler)", _TOKENS
        )
        self._padding = self._histogram(
            "padding_ratio", "Share of a batch's computed tokens that is padding (native)", _SHARES
        )
        self._failures = self._family(
            "request_failures_total", "counter", "Requests without an answer", ("kind",)
        )
        self._deaths = self._family(
            "worker_deaths_total", "counter", "Workers that died or could not load"
        )
        self._waiting = self._family("queue_length", "gauge", "Requests that wait")
        self._ready = self._family("ready_workers", "gauge", "Workers with a loaded model")

    def answered(self, key: ModelKey, seconds: float) -> None:
        """One answered request."""
        self._request.update((key.name, key.version), seconds)

    def failed(self, key: ModelKey, kind: str) -> None:
        """One request without an answer."""
        self._failures.update((key.name, key.version, kind), 1)

    def batch(self, key: ModelKey, queued: Iterable[float], handler: float) -> None:
        """One batch: each request's time in the queue, and the handler's time."""
        labels = (key.name, key.version)
        count = 0
        for seconds in queued:
            self._queue.update(labels, seconds)
            count += 1
        self._items.update(labels, count)
        self._handler.update(labels, handler)

    def phases(self, key: ModelKey, phases: Phases) -> None:
        """Where a native handler's time went."""
        labels = (key.name, key.version)
        self._tokenise.update(labels, phases.tokenise)
        self._compute.update(labels, phases.compute)
        self._postprocess.update(labels, phases.postprocess)
        self._tokens.update(labels, phases.tokens)
        self._padding.update(labels, phases.padding / max(phases.tokens + phases.padding, 1))

    def worker_died(self, key: ModelKey) -> None:
        """One worker that died or could not load."""
        self._deaths.update((key.name, key.version), 1)

    def state(self, key: ModelKey, waiting: int, ready: int) -> None:
        """A model's gauges."""
        self._waiting.update((key.name, key.version), waiting)
        self._ready.update((key.name, key.version), ready)

    def forget(self, key: ModelKey) -> None:
        """Drop the series of a model that is gone."""
        for family in self._families:
            family.remove_where(lambda labels: labels[:2] == (key.name, key.version))

    def families(self) -> Iterator[Family]:
        """All of them, in a fixed order."""
        yield from self._families

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Family:
        return self._family(name, "histogram", text, buckets=buckets)

    def _family(
        self,
        name: str,
        kind: MetricKind,
        text: str,
        labels: tuple[str, ...] = (),
        buckets: tuple[float, ...] = _SECONDS,
    ) -> Family:
        dimensions = ("model_name", "model_version", *labels)
        family = Family(MetricSpec(f"flambeau_{name}", "", kind, dimensions), text, buckets)
        self._families.append(family)
        return family
