"""Metrics that handlers report, within limits: no handler can fill the server's memory (R13)."""

import logging
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from flambeau.telemetry.families import Family, Labels, sample_names
from flambeau.telemetry.metric_lines import MetricLines, WriteValue
from flambeau.types import MetricSample, MetricSpec, ModelKey

logger = logging.getLogger(__name__)

MAX_NAMES = 1_000
"""Metrics of all handlers together."""
MAX_SERIES = 10_000
"""Series of all handlers together."""
MAX_LABEL_CHARS = 256
"""Characters of a metric's or a dimension's name, of a unit and of a dimension's value."""


class ModelMetrics:
    """The series of all models' handlers. A name means one metric, whichever model reports it."""

    def __init__(
        self,
        declared: Mapping[str, MetricSpec],
        reserved: Iterable[str],
        host: str,
        lines: MetricLines | None,
        *,
        auto_detect: bool,
    ) -> None:
        """`reserved` are names that handlers cannot have; no `lines`: nothing is logged."""
        self._host = host
        self._lines = lines
        self._auto_detect = auto_detect
        self._declared = declared
        self._specs = dict(declared)
        self._names = set(reserved)
        self._families: dict[str, Family] = {}
        self._owners: dict[tuple[str, Labels], set[ModelKey]] = {}
        self._told: dict[ModelKey, set[str]] = {}
        self._writers: dict[tuple[str, Labels], WriteValue] = {}
        for spec in declared.values():
            self._add(spec)

    def record(self, key: ModelKey, sample: MetricSample) -> None:
        """Take one value. One that is not taken is dropped, with one error line per reason."""
        problem = self._problem(sample)
        if problem:
            self._tell(key, problem)
            return
        spec = self._specs.get(sample.name) or self._detect(key, sample)
        if spec is None:
            return
        values = tuple([value for _, value in sample.dimensions])
        if len(values) != len(spec.dimensions):
            names = [name for name, _ in sample.dimensions]
            self._tell(
                key,
                f"Metric {sample.name} was dropped: it came with the dimensions {names}, but"
                f" {[*spec.dimensions]} are declared",
            )
            return
        if self._lines is not None:
            known = (spec.name, values)
            write = self._writers.get(known)
            if write is None:
                if len(self._writers) >= MAX_SERIES:
                    self._writers.clear()
                write = self._writers[known] = self._lines.series(spec, values)
            write(sample.value, sample.request_id)
        self._update(key, self._families.get(spec.name), (*values, self._host), sample.value)

    def forget(self, key: ModelKey) -> None:
        """Drop the series that only this model has reported."""
        self._told.pop(key, None)
        self._writers.clear()  # a name may come back as another metric
        for (name, labels), owners in list(self._owners.items()):
            owners.discard(key)
            if not owners:
                del self._owners[name, labels]
                self._families[name].remove(labels)
                if not len(self._families[name]) and name not in self._declared:
                    del self._families[name]
                    self._names -= set(sample_names(self._specs.pop(name)))

    def families(self) -> Iterator[Family]:
        """All metrics, in the order of their first appearance."""
        yield from self._families.values()

    def _problem(self, sample: MetricSample) -> str:
        texts = [sample.name, sample.unit]
        for pair in sample.dimensions:
            texts += pair
        if max(map(len, texts)) > MAX_LABEL_CHARS:
            return (
                f"Metric {sample.name[:MAX_LABEL_CHARS]} was dropped: its name, unit and dimensions"
                f" may have {MAX_LABEL_CHARS} characters each"
            )
        if sample.name not in self._specs and sample.name in self._names:
            return f"Metric {sample.name} was dropped: the server has one of that name"
        return ""

    def _detect(self, key: ModelKey, sample: MetricSample) -> MetricSpec | None:
        """A metric that nobody declared gets the type and the dimensions of its first value."""
        if not self._auto_detect:
            self._tell(
                key,
                f"Metric {sample.name} was dropped: metrics_config does not declare it, and"
                " model_metrics_auto_detect is false",
            )
            return None
        if len(self._specs) >= MAX_NAMES:
            self._tell(key, f"Further metrics were dropped: handlers have {MAX_NAMES} already")
            return None
        dimensions = tuple(name for name, _ in sample.dimensions)
        spec = MetricSpec(sample.name, sample.unit, sample.kind, dimensions)
        self._specs[spec.name] = spec
        problem = self._add(spec)
        if problem:
            self._tell(key, problem)
        return spec

    def _add(self, spec: MetricSpec) -> str:
        """Make a metric's family; returns why there is none, "" otherwise."""
        with_host = msgspec.structs.replace(spec, dimensions=(*spec.dimensions, "Hostname"))
        names = sample_names(spec)
        problem = ""
        if not self._names.isdisjoint(names):
            problem = "the name is taken by another metric"
        else:
            try:
                self._families[spec.name] = Family(with_host)
            except ValueError as error:
                problem = str(error)
            else:
                self._names.update(names)
        return problem and f"Metric {spec.name} is in the log only, not on /metrics: {problem}"

    def _update(self, key: ModelKey, family: Family | None, labels: Labels, value: float) -> None:
        if family is None:
            return
        owned = (family.spec.name, labels)
        if owned not in self._owners and len(self._owners) >= MAX_SERIES:
            self._tell(
                key,
                f"Further series are not on /metrics: handlers have {MAX_SERIES} already, the last"
                f" of metric {family.spec.name}. Dimensions are for a few values, not for ids",
            )
            return
        self._owners.setdefault(owned, set()).add(key)
        family.update(labels, value)

    def _tell(self, key: ModelKey, text: str) -> None:
        told = self._told.setdefault(key, set())
        if text not in told and len(told) < MAX_NAMES:
            told.add(text)
            logger.error("Model %s: %s.", key, text)
