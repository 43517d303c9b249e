"""Names that handlers import from TorchServe's `ts.service`."""

from collections.abc import Iterable

from flambeau.handlers.ts.metrics.metric import Metric
from flambeau.handlers.ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from flambeau.handlers.ts.metrics.metric_type_enum import MetricTypes
from flambeau.handlers.ts.utils.util import PredictionException

__all__ = ["PREDICTION_METRIC", "PredictionException", "emit_metrics", "feed_metrics_to"]

PREDICTION_METRIC = "PredictionTime"
"""The metric that counts a batch's time in the handler, in milliseconds."""

_collectors: list[MetricsCacheYamlImpl] = []
"""The collector of this process's model: one worker serves one model."""


def feed_metrics_to(collector: MetricsCacheYamlImpl) -> None:
    """From now on `emit_metrics` reports to `collector`."""
    _collectors[:] = [collector]


def emit_metrics(metrics: Iterable[Metric] | None) -> None:
    """Report each metric of a `MetricsStore.store`, as a counter or a gauge.

    TorchServe prints them and parses what handlers print; here a printed line is only a line.
    """
    for metric in metrics or ():
        kind = MetricTypes.COUNTER if metric.metric_method == "counter" else MetricTypes.GAUGE
        for collector in _collectors:
            collector.report(
                metric.name, metric.value, metric.unit, metric.dimensions, kind, metric.request_id
            )
