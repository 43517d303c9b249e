"""One defined metric, which turns values into samples."""

import logging
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from flambeau.handlers.ts.metrics.dimension import Dimension
from flambeau.handlers.ts.metrics.metric_type_enum import MetricTypes
from flambeau.handlers.ts.metrics.unit import UNIT_NAMES

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
    """A metric with a name, a unit (spelled out: `ms` is Milliseconds) and its dimensions' names.

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
        self.unit = UNIT_NAMES.get(unit, unit)
        self.dimension_names = list(dimension_names or ())
        self.metric_type = metric_type
        self._record = record

    def add_or_update(
        self,
        value: float,
        dimension_values: Sequence[object] | None = (),
        request_id: str | None = "",
    ) -> None:
        """Report `value`.

        A wrong number of dimension values, a negative count and a value that is no finite number
        are logged and dropped.
        """
        values = list(dimension_values or ())
        wrong = ""
        number = math.nan
        try:
            number = float(value)
        except (TypeError, ValueError):
            wrong = f"{value!r} is no number"
        if len(values) != len(self.dimension_names):
            wrong = f"it has the dimensions {self.dimension_names}, but the values are {values}"
        elif not wrong and not math.isfinite(number):
            wrong = f"{value!r} is not finite"
        elif self.metric_type is MetricTypes.COUNTER and number < 0:
            wrong = f"a counter cannot go down by {value}"
        if wrong:
            _logger.error("Metric %s was not updated: %s.", self.metric_name, wrong)
            return
        names = zip(self.dimension_names, map(str, values), strict=True)
        sample = Sample(
            self.metric_name, number, self.unit, self.metric_type, tuple(names), request_id or ""
        )
        if self._record is not None:
            self._record(sample)

    def update(
        self, value: float, request_id: str = "", dimensions: Sequence[Dimension] = ()
    ) -> None:
        """Report `value` with `dimensions` in place of the defined ones (an older form)."""
        self.dimension_names = [dimension.name for dimension in dimensions]
        self.add_or_update(value, [dimension.value for dimension in dimensions], request_id)
