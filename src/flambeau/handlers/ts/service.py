"""Names that handlers import from TorchServe's `ts.service` (contract.md section 9.7)."""

import copy
import inspect
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from flambeau.handlers.ts.context import Context, RequestProcessor
from flambeau.handlers.ts.metrics.metric import Metric
from flambeau.handlers.ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from flambeau.handlers.ts.metrics.metric_type_enum import MetricTypes
from flambeau.handlers.ts.protocol.otf_message_handler import create_predict_response
from flambeau.handlers.ts.utils.util import PredictionException, get_yaml_config
from flambeau.handlers.ts.version import __version__

__all__ = [
    "PREDICTION_METRIC",
    "PredictionException",
    "Service",
    "emit_metrics",
    "feed_metrics_to",
]

PREDICTION_METRIC = "PredictionTime"
"""The metric that counts a batch's time in the handler, in milliseconds."""

_logger = logging.getLogger(__name__)

_collectors: list[MetricsCacheYamlImpl] = []
"""The collector of this process's model: one worker serves one model."""


class Service:
    """An entry point with its context, for tests that load and call a handler themselves.

    Flambeau's own workers run handlers by `flambeau.handlers.runner`.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the signature is TorchServe's
        self,
        model_name: str,
        model_dir: str,
        manifest: dict[str, Any] | None,
        entry_point: Callable[[Any, Any], Any],
        gpu: int | None,
        batch_size: int,
        limit_max_image_pixels: bool = True,
        metrics_cache: Any = None,
    ) -> None:
        name = ((manifest or {}).get("model") or {}).get("configFile")
        config = get_yaml_config(str(Path(model_dir) / name)) if name else {}
        self._context = Context(
            model_name,
            model_dir,
            manifest,
            batch_size,
            gpu,
            __version__,
            limit_max_image_pixels,
            metrics_cache,
            config,
        )
        self._entry_point = entry_point
        self.cl_socket: Any = None

    @property
    def context(self) -> Context:
        """What the handler sees."""
        return self._context

    def set_entry_point(self, entry_point: Callable[[Any, Any], Any]) -> None:
        """Set what answers a batch, once it is loaded with this service's context."""
        self._entry_point = entry_point

    def set_cl_socket(self, cl_socket: Any) -> None:
        """Set the connection to the server."""
        self.cl_socket = cl_socket

    @staticmethod
    def retrieve_data_for_inference(
        batch: Any,
    ) -> tuple[list[RequestProcessor], list[dict[str, Any]], dict[int, str]]:
        """(processors, rows, ids by index) of a batch as `retrieve_msg` gives it."""
        if batch is None:
            raise ValueError("Received invalid inputs")
        processors, rows, ids = [], [], {}
        for index, request in enumerate(batch):
            ids[index] = request["requestId"].decode("utf-8")
            seen: dict[str, Any] = {}
            row: dict[str, Any] = {}
            for parameter in request["parameters"]:
                row[parameter["name"]] = parameter["value"]
                seen[parameter["name"]] = {"content-type": parameter["contentType"]}
            for header in request.get("headers") or ():
                seen[header["name"].decode("utf-8")] = header["value"].decode("utf-8")
            processors.append(RequestProcessor(seen))
            rows.append(row)
        return processors, rows, ids

    def predict(self, batch: Any) -> bytes | None:
        """The response frame for a batch."""
        context, rows, ids = self._prepared(self._context, batch)
        started = time.monotonic()
        try:
            result = self._entry_point(rows, context)
        except Exception as error:  # noqa: BLE001 - it becomes the answer
            return _failure(error, ids)
        return _answer(result, ids, context, started)

    async def predict_async(self, batch: Any) -> bytes | None:
        """The same for an `async def` entry point, with a context of the batch's own."""
        context, rows, ids = self._prepared(copy.deepcopy(self._context), batch)
        started = time.monotonic()
        try:
            result = self._entry_point(rows, context)
            if inspect.isawaitable(result):
                result = await result
        except Exception as error:  # noqa: BLE001 - it becomes the answer
            return _failure(error, ids)
        return _answer(result, ids, context, started)

    def _prepared(
        self, context: Context, batch: Any
    ) -> tuple[Context, list[dict[str, Any]], dict[int, str]]:
        processors, rows, ids = self.retrieve_data_for_inference(batch)
        context.request_ids, context.request_processor = ids, processors
        context.cl_socket = self.cl_socket
        if context.metrics is not None:
            context.metrics.set_request_ids(ids)
        return context, rows, ids


def _failure(error: Exception, ids: dict[int, str]) -> bytes | None:
    """The frame for what an entry point raised."""
    _logger.warning("Invoking custom service failed.", exc_info=error)
    if isinstance(error, PredictionException):
        return create_predict_response(None, ids, error.message, error.error_code)
    if isinstance(error, MemoryError) or "CUDA" in str(error):
        return create_predict_response(None, ids, "Out of resources", 507)
    return create_predict_response(None, ids, "Prediction failed", 503)


def _answer(result: Any, ids: dict[int, str], context: Context, started: float) -> bytes | None:
    """The frame for what an entry point returned."""
    if not isinstance(result, list):
        return create_predict_response(None, ids, "Invalid model predict output", 503)
    if len(result) != len(ids):
        return create_predict_response(None, ids, "number of batch response mismatched", 503)
    if context.metrics is not None:
        context.metrics.add_time(PREDICTION_METRIC, round((time.monotonic() - started) * 1000, 2))
    return create_predict_response(result, ids, "Prediction success", 200, context)


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
