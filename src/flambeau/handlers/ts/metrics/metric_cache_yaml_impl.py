"""The collector behind `context.metrics`."""

from collections import deque
from collections.abc import Sequence

from flambeau.handlers.ts.metrics.caching_metric import CachingMetric, Sample
from flambeau.handlers.ts.metrics.dimension import Dimension
from flambeau.handlers.ts.metrics.metric_cache_errors import (
    MetricsCacheKeyError,
    MetricsCacheTypeError,
    MetricsCacheValueError,
)
from flambeau.handlers.ts.metrics.metric_type_enum import MetricTypes

__all__ = ["MetricsCacheYamlImpl"]

_KEPT_SAMPLES = 10_000
_TIME_UNITS = ("ms", "s")
_SIZE_UNITS = ("MB", "kB", "GB", "B")


class MetricsCacheYamlImpl:
    """Takes the metrics that a handler reports and keeps them until `drain`.

    The methods are TorchServe's (contract.md section 7.6). A caller's list of dimensions is not
    changed, and `idx` may be given while the model loads. The newest 10 000 samples are kept. A
    metric that is defined with other dimensions takes values by position, as in TorchServe.
    """

    def __init__(self, model_name: str = "") -> None:
        self.model_name = model_name
        self.request_ids: dict[int, str] | str | None = None
        self._metrics: dict[MetricTypes, dict[str, CachingMetric]] = {}
        self._samples: deque[Sample] = deque(maxlen=_KEPT_SAMPLES)

    def drain(self) -> list[Sample]:
        """The samples since the last call, oldest first."""
        samples: list[Sample] = []
        while self._samples:
            samples.append(self._samples.popleft())
        return samples

    def set_request_ids(self, request_ids: dict[int, str] | str | None) -> None:
        """Name the requests that later samples belong to (row index → id)."""
        self.request_ids = request_ids

    def cache_keys(self) -> dict[MetricTypes, dict[str, CachingMetric]]:
        """The defined metrics, by type and name."""
        return self._metrics

    def add_metric_to_cache(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Sequence[str] = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> CachingMetric:
        """Define a metric, in place of one of the same name and type. Emits nothing."""
        given: object = metric_type  # users may pass its text
        if not isinstance(given, MetricTypes):
            raise MetricsCacheTypeError(f"metric_type must be a MetricTypes, not {given!r}.")
        metric = CachingMetric(
            metric_name, unit, dimension_names, metric_type, record=self._samples.append
        )
        self._metrics.setdefault(metric_type, {})[metric_name] = metric
        return metric

    def get_metric(
        self, metric_name: str, metric_type: MetricTypes = MetricTypes.COUNTER
    ) -> CachingMetric:
        """The defined metric; MetricsCacheKeyError if there is none."""
        try:
            return self._metrics[metric_type][metric_name]
        except KeyError:
            kind = getattr(metric_type, "value", metric_type)
            raise MetricsCacheKeyError(f"there is no {kind} named {metric_name!r}.") from None

    def add_metric(
        self,
        name: str,
        value: float,
        unit: str,
        idx: int | None = None,
        dimensions: Sequence[Dimension] = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> None:
        """Report a value in any unit. `idx` None means all requests of the batch."""
        request_id = self._request_id(idx)
        present = {dimension.name for dimension in dimensions}
        defaults = [Dimension("ModelName", self.model_name), Dimension("Level", "Model")]
        if request_id is None:
            defaults = [Dimension("Level", "Error")]
        missing = [dimension for dimension in defaults if dimension.name not in present]
        self.report(name, value, unit, [*dimensions, *missing], metric_type, request_id or "")

    def add_counter(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        dimensions: Sequence[Dimension] = (),
    ) -> None:
        """Add to a counter. A negative value is logged and dropped."""
        self.add_metric(name, value, "count", idx, dimensions, MetricTypes.COUNTER)

    def add_time(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "ms",
        dimensions: Sequence[Dimension] = (),
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Report a time in `ms` or `s`; MetricsCacheValueError for any other unit."""
        if unit not in _TIME_UNITS:
            raise MetricsCacheValueError(f"a time's unit is one of {_TIME_UNITS}, not {unit!r}.")
        self.add_metric(name, value, unit, idx, dimensions, metric_type)

    def add_size(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "MB",
        dimensions: Sequence[Dimension] = (),
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Report a size in `MB`, `kB`, `GB` or `B`; ValueError for any other unit."""
        if unit not in _SIZE_UNITS:
            raise MetricsCacheValueError(f"a size's unit is one of {_SIZE_UNITS}, not {unit!r}.")
        self.add_metric(name, value, unit, idx, dimensions, metric_type)

    def add_percent(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        dimensions: Sequence[Dimension] = (),
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Report a percentage."""
        self.add_metric(name, value, "percent", idx, dimensions, metric_type)

    def add_error(self, name: str, value: float, dimensions: Sequence[Dimension] = ()) -> None:
        """Count an error of the handler."""
        present = {dimension.name for dimension in dimensions}
        level = [] if "Level" in present else [Dimension("Level", "Error")]
        self.report(name, value, "", [*dimensions, *level], MetricTypes.COUNTER, "")

    def report(
        self,
        name: str,
        value: float,
        unit: str,
        dimensions: Sequence[Dimension],
        metric_type: MetricTypes,
        request_id: str | None,
    ) -> None:
        """Report a value with exactly these dimensions; `request_id` None or "" for none."""
        values = {dimension.name: dimension.value for dimension in dimensions}
        metric = self._metrics.get(metric_type, {}).get(name)
        if metric is None:
            metric = self.add_metric_to_cache(name, unit, list(values), metric_type)
        if set(metric.dimension_names) == set(values):  # in whatever order they were defined
            metric.add_or_update(value, [values[key] for key in metric.dimension_names], request_id)
        else:
            metric.add_or_update(value, [one.value for one in dimensions], request_id)

    def _request_id(self, idx: int | None) -> str | None:
        """The id of row `idx`, all ids of the batch joined by commas, or None without any."""
        if isinstance(self.request_ids, dict):
            if idx is not None and idx in self.request_ids:
                return self.request_ids[idx]
            return ",".join(self.request_ids.values())
        return self.request_ids
