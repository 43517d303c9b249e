"""One defined metric, which turns values into samples."""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from flambeau.handlers.ts.metrics.dimension import Dimension
from flambeau.handlers.ts.metrics.metric_type_enum import MetricTypes

__all__ = ["CachingMetric", "Sample"]

_logger = logging.getLogger(__name__)


class Sample(NamedTuple):
    """One reported value. `request_id` joins several ids by commas, "" outside a batch."""

    name: str
    value: float
    unit: str
    metric_type: MetricTypes
    dimensions: tuple[tuple[str, str], ...]
    request_id: str


class CachingMetric:
    """A metric with a name, a unit and the names of its dimensions.

    Handlers get one from `context.metrics`; its samples go where that collector keeps them.
    """

    def __init__(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Sequence[str] | None = None,
        metric_type: MetricTypes = MetricTypes.COUNTER,
        record: Callable[[Sample], None] | None = None,
    ) -> None:
        self.metric_name = metric_name
        self.unit = unit
        self.dimension_names = list(dimension_names or ())
        self.metric_type = metric_type
        self._record = record

    def add_or_update(
        self, value: float, dimension_values: Sequence[object] = (), request_id: str = ""
    ) -> None:
        """Report `value`. A wrong number of dimension values, or a negative count, is logged and
        dropped."""
        if len(dimension_values) != len(self.dimension_names):
            _logger.error(
                "Metric %s was not updated: it has the dimensions %s, but the values are %s.",
                self.metric_name,
                self.dimension_names,
                list(dimension_values),
            )
            return
        if self.metric_type is MetricTypes.COUNTER and value < 0:
            _logger.error(
                "Metric %s was not updated: a counter cannot go down by %s.",
                self.metric_name,
                value,
            )
            return
        names = zip(self.dimension_names, map(str, dimension_values), strict=True)
        sample = Sample(
            self.metric_name, value, self.unit, self.metric_type, tuple(names), request_id
        )
        if self._record is not None:
            self._record(sample)

    def update(
        self, value: float, request_id: str = "", dimensions: Sequence[Dimension] = ()
    ) -> None:
        """Report `value` with `dimensions` in place of the defined ones (an older form)."""
        self.dimension_names = [dimension.name for dimension in dimensions]
        self.add_or_update(value, [dimension.value for dimension in dimensions], request_id)
