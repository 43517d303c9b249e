"""One metric of the older interface."""

import socket
from collections.abc import Sequence
from datetime import UTC, datetime

from typing_extensions import override

from flambeau.handlers.ts.metrics.dimension import Dimension
from flambeau.handlers.ts.metrics.unit import UNIT_NAMES

__all__ = ["Metric"]


class Metric:
    """A name, a value, a unit and dimensions; `str()` is TorchServe's log-line form.

    A metric whose `metric_method` is "counter" adds up its updates, any other keeps the last one.
    """

    def __init__(
        self,
        name: str,
        value: float,
        unit: str,
        dimensions: Sequence[Dimension],
        request_id: str | None = None,
        metric_method: str | None = None,
    ) -> None:
        self.name = name
        self.value = value
        self.unit = UNIT_NAMES.get(unit, unit)
        self.dimensions = list(dimensions)
        self.request_id = request_id
        self.metric_method = metric_method

    def update(self, value: float) -> None:
        """Take a further value."""
        self.value = self.value + value if self.metric_method == "counter" else value

    def reset(self) -> None:
        """Set the value to 0."""
        self.value = 0

    @override
    def __str__(self) -> str:
        dimensions = ",".join(map(str, self.dimensions))
        line = (
            f"{self.name}.{self.unit}:{self.value}|#{dimensions}"
            f"|#hostname:{socket.gethostname()},{_timestamp()}"
        )
        return f"{line},{self.request_id}" if self.request_id else line

    def to_dict(self) -> dict[str, object]:
        """The metric's parts under TorchServe's names; the time is in seconds since 1970."""
        return {
            "MetricName": self.name,
            "Value": self.value,
            "Unit": self.unit,
            "Dimensions": self.dimensions,
            "Timestamp": _timestamp(),
            "HostName": socket.gethostname(),
            "RequestId": self.request_id,
        }


def _timestamp() -> int:
    return int(datetime.now(UTC).timestamp())
