"""Errors of the metrics interface, under TorchServe's names."""

import yaml
from typing_extensions import override

__all__ = [
    "GeneralMetricsCacheError",
    "MetricsCacheIOError",
    "MetricsCacheKeyError",
    "MetricsCachePyYamlError",
    "MetricsCacheTypeError",
    "MetricsCacheValueError",
]


class GeneralMetricsCacheError(Exception):
    """Something else is wrong with the metrics."""


class MetricsCacheIOError(OSError):
    """A metrics.yaml cannot be read."""


class MetricsCachePyYamlError(yaml.YAMLError):
    """A metrics.yaml is no YAML."""


class MetricsCacheTypeError(TypeError):
    """An argument has the wrong type."""


class MetricsCacheValueError(ValueError):
    """An argument has a value that is not allowed."""


class MetricsCacheKeyError(KeyError):
    """No metric has that name and type."""

    @override
    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""
