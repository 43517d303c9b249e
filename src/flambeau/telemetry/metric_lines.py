"""Metric lines of TorchServe's log mode (contract.md section 7.4)."""

import functools
import logging

from flambeau.telemetry.logging import LineHandler, escape_controls, log_time
from flambeau.types import MetricSpec

TS_METRICS = "TS_METRICS"
MODEL_METRICS = "MODEL_METRICS"

_KNOWN_SERIES = 4096


class MetricLines:
    """Writes one line a value to the log of that name; nothing where the log has no file."""

    def __init__(self, logger: str, host: str) -> None:
        self._logger = logging.getLogger(logger)
        self._host = host

    def write(
        self,
        spec: MetricSpec,
        value: float,
        labels: tuple[str, ...],
        request_ids: str | None = None,
    ) -> None:
        """`labels` are values of the spec's dimensions; `request_ids` None: the line says nothing of
        requests. A dozen lines may come with each request, so that records and formatters of
        `logging` would cost more than the rest."""
        handlers = self._logger.handlers
        if not handlers:
            return
        now, seconds = log_time()
        before, after = _around(spec.name, spec.unit, spec.dimensions, labels, self._host)
        about = "" if request_ids is None else f",requestID:{request_ids or 'null'}"
        if not about.isprintable():
            about = _one_line(about)
        line = f"{now}{before}{float(value)!r}{after}{about},timestamp:{seconds}"
        for handler in handlers:
            if isinstance(handler, LineHandler):
                handler.write(line)


@functools.lru_cache(_KNOWN_SERIES)
def _around(
    name: str, unit: str, dimensions: tuple[str, ...], labels: tuple[str, ...], host: str
) -> tuple[str, str]:
    """What stands before and after a value in all lines of one series."""
    pairs = ",".join(f"{key}:{text}" for key, text in zip(dimensions, labels, strict=False))
    before, after = f" - {name}.{unit}:", f"|#{pairs}|#hostname:{host}"
    return _one_line(before), _one_line(after)


def _one_line(text: str) -> str:
    return text if text.isprintable() else escape_controls(text).replace("\n", "\\n")
