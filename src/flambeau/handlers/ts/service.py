"""Names that handlers import from TorchServe's `ts.service`."""

import logging
from collections.abc import Iterable

from flambeau.handlers.ts.utils.util import PredictionException

__all__ = ["PREDICTION_METRIC", "PredictionException", "emit_metrics"]

PREDICTION_METRIC = "PredictionTime"
"""The metric that counts a batch's time in the handler, in milliseconds."""

_logger = logging.getLogger(__name__)


def emit_metrics(metrics: Iterable[object] | None) -> None:
    """Log each metric of a `MetricsStore.store` in TorchServe's log-line form."""
    for metric in metrics or ():
        _logger.info("[METRICS]%s", metric)
