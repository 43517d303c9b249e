"""The older metrics interface, which `MockContext` hands to handlers' unit tests."""

from collections.abc import Mapping, Sequence

from flambeau.handlers.ts.metrics.dimension import Dimension
from flambeau.handlers.ts.metrics.metric import Metric

__all__ = ["MetricsStore"]


class MetricsStore:
    """Collects metrics in `store`, one entry per name, unit, request and set of dimensions."""

    def __init__(self, request_ids: object, model_name: str) -> None:
        self.request_ids = request_ids
        self.model_name = model_name
        self.store: list[Metric] = []
        self.cache: dict[str, Metric] = {}

    def add_counter(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        dimensions: Sequence[Dimension] | None = None,
    ) -> None:
        """Add to a counter."""
        self._add(name, value, "count", self._request_id(idx), dimensions, "counter")

    def add_time(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "ms",
        dimensions: Sequence[Dimension] | None = None,
    ) -> None:
        """Report a time in `ms` or `s`; ValueError for any other unit."""
        if unit not in ("ms", "s"):
            raise ValueError(f"a time's unit is ms or s, not {unit!r}.")
        self._add(name, value, unit, self._request_id(idx), dimensions)

    def add_size(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "MB",
        dimensions: Sequence[Dimension] | None = None,
    ) -> None:
        """Report a size in `MB`, `kB`, `GB` or `B`; ValueError for any other unit."""
        if unit not in ("MB", "kB", "GB", "B"):
            raise ValueError(f"a size's unit is MB, kB, GB or B, not {unit!r}.")
        self._add(name, value, unit, self._request_id(idx), dimensions)

    def add_percent(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        dimensions: Sequence[Dimension] | None = None,
    ) -> None:
        """Report a percentage."""
        self._add(name, value, "percent", self._request_id(idx), dimensions)

    def add_error(
        self, name: str, value: float, dimensions: Sequence[Dimension] | None = None
    ) -> None:
        """Report an error of the handler."""
        self._add(name, value, "", None, dimensions)

    def add_metric(
        self,
        name: str,
        value: float,
        unit: str,
        idx: int | None = None,
        dimensions: Sequence[Dimension] | None = None,
    ) -> None:
        """Report a value in any unit."""
        self._add(name, value, unit, self._request_id(idx), dimensions)

    def _request_id(self, idx: int | None) -> str | None:
        ids = self.request_ids
        if isinstance(ids, Mapping):
            return ids[idx] if idx in ids else ",".join(ids.values())
        return None if ids is None else str(ids)

    def _add(
        self,
        name: str,
        value: float,
        unit: str,
        request_id: str | None,
        dimensions: Sequence[Dimension] | None,
        metric_method: str | None = None,
    ) -> None:
        own = [Dimension("ModelName", self.model_name), Dimension("Level", "Model")]
        if request_id is None:
            own = [Dimension("Level", "Error")]
        every = [*(dimensions or ()), *own]
        key = "-".join([name, unit, str(request_id), *map(str, every)])
        if key in self.cache:
            self.cache[key].update(value)
        else:
            self.cache[key] = Metric(name, value, unit, every, request_id, metric_method)
            self.store.append(self.cache[key])
