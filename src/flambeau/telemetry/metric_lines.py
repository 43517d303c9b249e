"""Metric lines of TorchServe's log mode (contract.md section 7.4)."""

import logging
from collections.abc import Callable

from flambeau.telemetry.logging import LineHandler, escape_controls, log_time
from flambeau.types import MetricSpec

TS_METRICS = "TS_METRICS"
MODEL_METRICS = "MODEL_METRICS"

WriteValue = Callable[[float, str | None], None]
"""Writes a line for one value, with the ids of the requests that it belongs to (None: it says
nothing of requests)."""


class MetricLines:
    """Writes one line a value to the log of that name; nothing where the log has no file."""

    def __init__(self, logger: str, host: str) -> None:
        self._logger = logging.getLogger(logger)
        self._host = host

    def series(self, spec: MetricSpec, labels: tuple[str, ...]) -> WriteValue:
        """What writes the values of one series; `labels` are values of the spec's dimensions.

        A dozen lines may come with each request: records and formatters of `logging` would cost
        more than the rest, and what is the same in all lines of a series is made here, once.
        """
        pairs = ",".join(
            f"{key}:{text}" for key, text in zip(spec.dimensions, labels, strict=False)
        )
        before = _one_line(f" - {spec.name}.{spec.unit}:")
        after = _one_line(f"|#{pairs}|#hostname:{self._host}")
        logger = self._logger

        def write(value: float, request_ids: str | None) -> None:
            about = "" if request_ids is None else _one_line(f",requestID:{request_ids or 'null'}")
            now, seconds = log_time()
            line = f"{now}{before}{float(value)!r}{after}{about},timestamp:{seconds}"
            for handler in logger.handlers:
                if isinstance(handler, LineHandler):
                    handler.write(line)

        return write


def _one_line(text: str) -> str:
    return text if text.isprintable() else escape_controls(text).replace("\n", "\\n")
