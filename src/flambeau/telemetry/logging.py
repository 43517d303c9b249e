"""Where log lines go: the console, and TorchServe's files when there is a log folder (section 2.7).

access_log.log      one line a response
model_log.log       what handlers log and print, at their own level
ts_log.log          the server itself, and what its libraries warn of
model_metrics.log   values that handlers report, and ts_metrics.log the server's own, where the
                    metrics mode says so; not on the console
"""

import logging
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from typing_extensions import override

from flambeau.telemetry.masking import mask_addresses
from flambeau.telemetry.rolling import RollingFile
from flambeau.telemetry.writer import MAX_WAITING_LINES, LineWriter, Sink, StreamSink

_CONTROLS = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    for code in (*range(32), *range(127, 160), 0x2028, 0x2029)
    if chr(code) not in "\n\t"
} | {ord("\r"): "\\r"}
_FILES = {"flambeau": "ts_log.log", "ACCESS_LOG": "access_log.log", "MODEL_LOG": "model_log.log"}
_METRIC_FILES = {"MODEL_METRICS": "model_metrics.log", "TS_METRICS": "ts_metrics.log"}
_LIBRARIES = ("asyncio", "uvicorn")
"""Their warnings go where the server's own lines go; else Python would write them to stderr itself."""
_WAITING_FOR_FILES = 65_536
_LEVELS = {"WARNING": "WARN", "CRITICAL": "FATAL", "NOTSET": "ALL"}
"""Levels whose names differ in TorchServe's logs."""


class _Clock:
    """When the last line was written: most come within the same second, many within the same
    millisecond."""

    second = (0, "")
    millisecond = (0, ("", 0))


class _Formatter(logging.Formatter):
    """TorchServe's line. Control characters are escaped and further lines of a record are indented.

    So no text can forge a record, or talk to a terminal. Addresses in the server's own lines lose their
    passwords and queries; what handlers log is theirs.
    """

    @override
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return log_time(int(record.created * 1e9))[0]

    @override
    def formatMessage(self, record: logging.LogRecord) -> str:
        thread = record.threadName or "-"
        record.level = _LEVELS.get(record.levelname, record.levelname)
        record.thread_name = getattr(record, "worker", "main" if thread == "MainThread" else thread)
        return super().formatMessage(record)

    @override
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.name != "MODEL_LOG":
            text = mask_addresses(text)
        return escape_controls(text).replace("\n", "\n    ")


class LineHandler(logging.Handler):
    """Hands records to a writing thread; several handlers may share one.

    `logging` closes its handlers at the end of the process, which writes what still waits.
    """

    def __init__(self, writer: LineWriter, sink: Sink, between: str = " - ") -> None:
        """`between` stands between the time and the text of an access line."""
        super().__init__()
        self.between = between
        self._writer = writer
        writer.add(sink)
        self.write: Callable[[str], None] = partial(writer.put, sink)
        """Write a line that needs no formatting."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.write(self.format(record))
        except Exception:  # noqa: BLE001  # a bad log call must not fail a request
            self.handleError(record)

    @override
    def close(self) -> None:
        self._writer.close()
        super().close()


def write_line(logger: logging.Logger, text: str, when: str = "") -> None:
    """Log one printable line at level INFO, now or as of `when` (a `log_time`). There may be
    thousands a second: where the logger's handlers are ours, no record is made."""
    handlers = logger.handlers
    if logger.propagate or not all(isinstance(handler, LineHandler) for handler in handlers):
        logger.info("%s", text)
        return
    now = when or log_time()[0]
    for handler in handlers:
        assert isinstance(handler, LineHandler)
        handler.write(f"{now}{handler.between}{text}")


_PLAIN = _Formatter("%(asctime)s [%(level)-5s] %(thread_name)s %(name)s - %(message)s")
_ACCESS = _Formatter("%(asctime)s - %(message)s")


def configure_logging(
    folder: Path | None,
    *,
    metrics_folder: Path | None = None,
    console: Literal["stdout", "stderr"] | None = "stderr",
    level: int = logging.INFO,
) -> None:
    """Set up the server's loggers. Called once, by the command that starts the server.

    Metric files are written where `metrics_folder` says, else in `folder`. No line is waited for:
    threads write, and drop what comes too fast. Raises `OSError` where a file cannot be opened.
    """
    screen = _writer("console") if console is not None else None
    terminal = StreamSink(getattr(sys, console)) if console is not None else None
    files = _writer("log files", _WAITING_FOR_FILES)
    for name, file in _FILES.items():
        handlers: list[logging.Handler] = []
        if folder is not None:
            handlers.append(LineHandler(files, _open(folder, file)))
        if screen is not None and terminal is not None:
            handlers.append(LineHandler(screen, terminal, f" [INFO ] main {name} - "))
        for handler in handlers:
            handler.setFormatter(_PLAIN)
        if name == "ACCESS_LOG" and folder is not None:
            handlers[0].setFormatter(_ACCESS)
        _set_handlers(name, handlers, level)
    for name in _LIBRARIES:
        _set_handlers(name, logging.getLogger("flambeau").handlers, logging.WARNING)
    metrics_folder = metrics_folder or folder
    for name, file in _METRIC_FILES.items():
        opened = [LineHandler(files, _open(metrics_folder, file))] if metrics_folder else []
        _set_handlers(name, opened, level)


def escape_controls(text: str) -> str:
    """Text whose control characters, line ends apart, are written out."""
    return text.translate(_CONTROLS)


def log_time(nanoseconds: int | None = None) -> tuple[str, int]:
    """A moment, or now: local time as TorchServe writes it, `2026-11-25T02:15:12,158`, and the
    seconds since 1970."""
    moment = (nanoseconds or time.time_ns()) // 1_000_000
    latest, told = _Clock.millisecond
    if moment != latest:
        seconds, rest = divmod(moment, 1000)
        known, text = _Clock.second
        if known != seconds:
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds))
            _Clock.second = (seconds, text)
        told = (f"{text},{rest:03}", seconds)
        _Clock.millisecond = (moment, told)
    return told


def _open(folder: Path, file: str) -> RollingFile:
    folder.mkdir(parents=True, exist_ok=True)
    return RollingFile(folder / file)


def _writer(name: str, limit: int = MAX_WAITING_LINES) -> LineWriter:
    def notice(text: str) -> str:
        values = (__name__, logging.WARNING, __file__, 0, text, None, None)
        return _PLAIN.format(logging.LogRecord(*values))

    return LineWriter(name, notice, limit)


def _set_handlers(name: str, handlers: Sequence[logging.Handler], level: int) -> None:
    """Replace a logger's handlers; the old ones are closed."""
    logger = logging.getLogger(name)
    logger.setLevel(level)
    logger.propagate = False
    for old in logger.handlers[:]:
        logger.removeHandler(old)
        old.close()
    for handler in handlers:
        logger.addHandler(handler)
