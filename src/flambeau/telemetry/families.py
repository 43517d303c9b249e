"""Metric families and their series, in Prometheus' text format as TorchServe writes it.

`prometheus_client` keeps the numbers. It cannot write a counter under its own name (it appends
`_total`), and it sorts labels; TorchServe does neither, so the text is made here.
"""

import re
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import Gauge, Histogram
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from flambeau.types import MetricSpec

Labels = tuple[str, ...]

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_HELP_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n"})


class Family:
    """One metric: a series for each combination of its labels' values.

    A counter adds up what it is given, a gauge keeps the last value, a histogram counts in buckets.
    Raises `ValueError` on construction where Prometheus does not allow a name.
    """

    def __init__(
        self,
        spec: MetricSpec,
        help_text: str = "",
        buckets: Iterable[float] = Histogram.DEFAULT_BUCKETS,
    ) -> None:
        _check_names(spec)
        self.spec = spec
        self._help = help_text or f"Torchserve prometheus {spec.kind} metric with unit: {spec.unit}"
        self._store: Gauge | Histogram
        if spec.kind == "histogram":
            self._store = Histogram(
                spec.name, self._help, spec.dimensions, registry=None, buckets=tuple(buckets)
            )
        else:
            self._store = Gauge(spec.name, self._help, spec.dimensions, registry=None)
        self._series: dict[Labels, Callable[[float], None]] = {}

    def __len__(self) -> int:
        return len(self._series)

    def __contains__(self, labels: Labels) -> bool:
        return labels in self._series

    def update(self, labels: Labels, value: float) -> None:
        """Take a value for one series, which begins with its first."""
        take = self._series.get(labels)
        if take is None:
            take = self._series[labels] = self._begin(labels)
        take(value)

    def remove(self, labels: Labels) -> None:
        """End one series, if it exists."""
        if self._series.pop(labels, None) is not None:
            self._store.remove(*labels)

    def remove_where(self, ended: Callable[[Labels], bool]) -> None:
        """End every series whose labels' values meet a condition."""
        for labels in [labels for labels in self._series if ended(labels)]:
            self.remove(labels)

    def render(self, names: frozenset[str]) -> Iterator[str]:
        """Lines of text; `names` are the samples' names that are wanted, all if it is empty."""
        samples = [
            _line(sample)
            for metric in self._store.collect()
            for sample in metric.samples
            if not sample.name.endswith("_created") and (not names or sample.name in names)
        ]
        if samples or not names:
            yield f"# HELP {self.spec.name} {self._help.translate(_HELP_ESCAPES)}"
            yield f"# TYPE {self.spec.name} {self.spec.kind}"
            yield from samples

    def _begin(self, labels: Labels) -> Callable[[float], None]:
        series = self._store.labels(*labels)
        if isinstance(series, Histogram):
            return series.observe
        return series.inc if self.spec.kind == "counter" else series.set


def sample_names(spec: MetricSpec) -> list[str]:
    """The names that a metric takes in the text format."""
    if spec.kind == "histogram":
        return [spec.name, *(f"{spec.name}_{part}" for part in ("bucket", "count", "sum"))]
    return [spec.name]


def _check_names(spec: MetricSpec) -> None:
    """The library takes names in any script since Prometheus 3; this text format cannot hold them."""
    if not _NAME.fullmatch(spec.name):
        raise ValueError(f"{spec.name!r} is no name for a metric: use letters, digits and _")
    for label in spec.dimensions:
        if not _LABEL.fullmatch(label) or label == "le":
            raise ValueError(f"{label!r} is no name for a dimension: use letters, digits and _")
    if len(set(spec.dimensions)) < len(spec.dimensions):
        raise ValueError(f"{spec.dimensions} has a dimension twice")


def _line(sample: Sample) -> str:
    labels = "".join(
        f'{name}="{text.translate(_ESCAPES)}",' for name, text in sample.labels.items()
    )
    value: str = floatToGoString(sample.value)  # type: ignore[no-untyped-call]  # it has no types
    return f"{sample.name}{{{labels}}} {value}"
