"""Metric lines of TorchServe's log mode (contract.md section 7.4)."""

import logging
from collections.abc import Sequence

from flambeau.telemetry.logging import LineHandler, escape_controls, log_time

TS_METRICS = "TS_METRICS"
MODEL_METRICS = "MODEL_METRICS"


class MetricLines:
    """Writes one line a value to the log of that name; nothing where the log has no file."""

    def __init__(self, logger: str, host: str) -> None:
        self._logger = logging.getLogger(logger)
        self._host = host

    def write(
        self,
        name: str,
        unit: str,
        value: float,
        dimensions: Sequence[tuple[str, str]],
        request_ids: str | None = None,
    ) -> None:
        """`request_ids` None: the line says nothing of requests. A dozen lines may come with each
        request, so that records and formatters of `logging` would cost more than the rest."""
        for handler in self._logger.handlers:
            if isinstance(handler, LineHandler):
                now, seconds = log_time()
                labels = ",".join([f"{key}:{text}" for key, text in dimensions])
                about = "" if request_ids is None else f",requestID:{request_ids or 'null'}"
                line = (
                    f"{now} - {name}.{unit}:{float(value)!r}|#{labels}|#hostname:{self._host}"
                    f"{about},timestamp:{seconds}"
                )
                if not line.isprintable():
                    line = escape_controls(line).replace("\n", "\\n")
                handler.write(line)
