"""The types of a metric."""

import enum

__all__ = ["MetricTypes"]


class MetricTypes(enum.Enum):
    """How the values of a metric add up."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
