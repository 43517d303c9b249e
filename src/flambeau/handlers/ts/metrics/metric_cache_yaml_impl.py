"""The collector behind `context.metrics`."""

import contextlib
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from flambeau.archive.yaml_config import read_yaml
from flambeau.errors import ArchiveError
from flambeau.handlers.ts.metrics.caching_metric import CachingMetric, Sample
from flambeau.handlers.ts.metrics.dimension import Dimension
from flambeau.handlers.ts.metrics.metric_cache_errors import (
    MetricsCacheIOError,
    MetricsCacheKeyError,
    MetricsCachePyYamlError,
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

    def __init__(self, config_file_path: str = "", model_name: str = "") -> None:
        """`config_file_path` names a metrics.yaml for `initialize_cache`; a worker needs none,
        since the server tells it what is declared.

        Raises MetricsCacheIOError or MetricsCachePyYamlError for a file that cannot be read.
        """
        self.config_file_path = config_file_path
        self.model_name = model_name
        self.request_ids: dict[int, str] | str | None = None
        self.cache: dict[MetricTypes, dict[str, CachingMetric]] = {}
        self._samples: deque[Sample] = deque(maxlen=_KEPT_SAMPLES)
        self._document = _read(config_file_path) if config_file_path else {}

    def drain(self) -> list[Sample]:
        """The samples since the last call, oldest first. Several threads may call it."""
        samples: list[Sample] = []
        with contextlib.suppress(IndexError):  # empty
            while True:
                samples.append(self._samples.popleft())
        return samples

    def initialize_cache(self) -> None:
        """Define what the file declares as `model_metrics`.

        MetricsCacheKeyError or MetricsCacheValueError names what is wrong with it.
        """
        if "model_metrics" not in self._document:
            raise MetricsCacheKeyError("'model_metrics' key not found in yaml file")
        section = self._document["model_metrics"]
        if not section or not isinstance(section, dict):
            raise MetricsCacheValueError("Missing `model_metrics` specification")
        for kind, entries in section.items():
            if kind not in [known.value for known in MetricTypes]:
                raise MetricsCacheKeyError(f"Invalid metric type: {kind!r}")
            for entry in entries or ():
                missing = {"name", "unit", "dimensions"} - set(entry)
                if missing:
                    raise MetricsCacheKeyError(f"Key not found in cache spec: {sorted(missing)}")
                self.add_metric_to_cache(
                    entry["name"], entry["unit"], entry["dimensions"], MetricTypes(kind)
                )

    def set_request_ids(self, request_ids: dict[int, str] | str | None) -> None:
        """Name the requests that later samples belong to (row index → id)."""
        self.request_ids = request_ids

    def cache_keys(self) -> list[str]:
        """The defined metrics, as `type:name`."""
        return [f"{kind.value}:{name}" for kind, metrics in self.cache.items() for name in metrics]

    def add_metric_to_cache(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Sequence[str] = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> CachingMetric:
        """Define a metric, in place of one of the same name and type. Emits nothing.

        MetricsCacheTypeError for arguments of other types.
        """
        wanted: list[tuple[str, object, type]] = [
            ("metric_name", metric_name, str),
            ("unit", unit, str),
            ("metric_type", metric_type, MetricTypes),
        ]
        for argument, given, kind in wanted:  # users may pass anything
            if not isinstance(given, kind):
                raise MetricsCacheTypeError(
                    f"`{argument}` must be a {kind.__name__}, not {given!r}"
                )
        metric = CachingMetric(
            metric_name, unit, dimension_names, metric_type, record=self._samples.append
        )
        self.cache.setdefault(metric_type, {})[metric_name] = metric
        return metric

    def get_metric(
        self, metric_name: str, metric_type: MetricTypes = MetricTypes.COUNTER
    ) -> CachingMetric:
        """The defined metric; MetricsCacheKeyError if there is none."""
        try:
            return self.cache[metric_type][metric_name]
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
        metric = self.cache.get(metric_type, {}).get(name)
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


def _read(path: str) -> dict[str, object]:
    if not Path(path).is_file():
        raise MetricsCacheIOError(f"Error reading file {path}: it does not exist")
    try:
        return read_yaml(Path(path))
    except ArchiveError as error:
        raise MetricsCachePyYamlError(f"Error parsing file {path}: {error.message}") from error
