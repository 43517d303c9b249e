"""Metric families and their series, in Prometheus' text format as TorchServe writes it.

`prometheus_client` cannot write a counter under its own name (it appends `_total`), sorts labels,
and takes a lock for each of the ten values that a request brings; so numbers and text are made
here. Only the event loop's thread updates and renders.
"""

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import Histogram
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
        self._bounds = tuple(sorted({*buckets, math.inf}))
        self._series: dict[Labels, _Number | _Distribution] = {}
        self._take: dict[Labels, Callable[[float], None]] = {}

    def __len__(self) -> int:
        return len(self._series)

    def __contains__(self, labels: Labels) -> bool:
        return labels in self._series

    def update(self, labels: Labels, value: float) -> None:
        """Take a value for one series, which begins with its first."""
        self.series(labels)(value)

    def series(self, labels: Labels) -> Callable[[float], None]:
        """What takes the values of one series, which begins here if need be."""
        take = self._take.get(labels)
        if take is None:
            take = self._take[labels] = self._begin(labels)
        return take

    def remove(self, labels: Labels) -> None:
        """End one series, if it exists."""
        self._series.pop(labels, None)
        self._take.pop(labels, None)

    def remove_where(self, ended: Callable[[Labels], bool]) -> None:
        """End every series whose labels' values meet a condition."""
        for labels in [labels for labels in self._series if ended(labels)]:
            self.remove(labels)

    def render(self, names: frozenset[str]) -> Iterator[str]:
        """Lines of text; `names` are the samples' names that are wanted, all if it is empty."""
        samples = [
            f"{name}{{{text}}} {_go_float(value)}"
            for labels, series in self._series.items()
            for name, text, value in series.samples(self.spec.name, self._labels(labels))
            if not names or name in names
        ]
        if samples or not names:
            yield f"# HELP {self.spec.name} {self._help.translate(_HELP_ESCAPES)}"
            yield f"# TYPE {self.spec.name} {self.spec.kind}"
            yield from samples

    def _begin(self, labels: Labels) -> Callable[[float], None]:
        if self.spec.kind == "histogram":
            distribution = self._series[labels] = _Distribution(self._bounds)
            return distribution.observe
        number = self._series[labels] = _Number()
        return number.add if self.spec.kind == "counter" else number.put

    def _labels(self, labels: Labels) -> str:
        pairs = zip(self.spec.dimensions, labels, strict=True)
        return "".join(f'{name}="{text.translate(_ESCAPES)}",' for name, text in pairs)


class _Number:
    """The series of a counter or a gauge."""

    __slots__ = ("_value",)

    def __init__(self) -> None:
        self._value = 0.0

    def add(self, value: float) -> None:
        self._value += value

    def put(self, value: float) -> None:
        self._value = value

    def samples(self, name: str, labels: str) -> Iterator[tuple[str, str, float]]:
        yield name, labels, self._value


class _Distribution:
    """The series of a histogram."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * len(bounds)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[-1 if math.isnan(value) else bisect_left(self._bounds, value)] += 1
        self._sum += value

    def samples(self, name: str, labels: str) -> Iterator[tuple[str, str, float]]:
        total = 0
        for bound, count in zip(self._bounds, self._counts, strict=True):
            total += count
            yield f"{name}_bucket", f'{labels}le="{_go_float(bound)}",', total
        yield f"{name}_count", labels, total
        yield f"{name}_sum", labels, self._sum


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


def _go_float(value: float) -> str:
    text: str = floatToGoString(value)  # type: ignore[no-untyped-call]  # it has no types
    return text
