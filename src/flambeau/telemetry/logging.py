"""Where log lines go: the console, and TorchServe's files when there is a log folder (section 2.7).

access_log.log   one line a response
model_log.log    what handlers log and print, at their own level
ts_log.log       the server itself, and what its libraries warn of
"""

import logging
import logging.handlers
import sys
from datetime import UTC, datetime
from pathlib import Path

from typing_extensions import override

from flambeau.telemetry.console import Console, ConsoleHandler

_ROTATE_BYTES = 100 * 1024 * 1024
_KEEP = 5
_CONTROLS = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    for code in (*range(32), *range(127, 160), 0x2028, 0x2029)
    if chr(code) not in "\n\t"
} | {ord("\r"): "\\r"}
_FILES = {"ACCESS_LOG": "access_log.log", "MODEL_LOG": "model_log.log", "flambeau": "ts_log.log"}
_LIBRARIES = ("asyncio", "uvicorn")
"""Their warnings go where the server's own lines go; else Python would write them to stderr itself."""


class _Formatter(logging.Formatter):
    """ISO time first. Control characters are escaped and further lines of a record are indented.

    So no text can forge a record, or talk to a terminal.
    """

    @override
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).astimezone()
        return moment.isoformat(timespec="milliseconds")

    @override
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record).translate(_CONTROLS)
        return text.replace("\n", "\n    ")


def configure_logging(
    folder: Path | None, *, console: bool = True, level: int = logging.INFO
) -> None:
    """Set up the server's loggers. Called once, by the command that starts the server.

    Files are written at once; a stalled console drops lines and holds nobody up.
    """
    plain = _Formatter("%(asctime)s [%(levelname)s] %(name)s - %(message)s")
    access = _Formatter("%(asctime)s - %(message)s")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    writer = Console(sys.stderr, plain) if console else None
    for name, file in _FILES.items():
        handlers: list[logging.Handler] = []
        if folder is not None:
            handlers.append(
                logging.handlers.RotatingFileHandler(
                    folder / file, maxBytes=_ROTATE_BYTES, backupCount=_KEEP, encoding="utf-8"
                )
            )
        if writer is not None:
            handlers.append(ConsoleHandler(writer))
        for handler in handlers:
            handler.setFormatter(access if name == "ACCESS_LOG" else plain)
        _set_handlers(name, handlers, level)
    for name in _LIBRARIES:
        _set_handlers(name, logging.getLogger("flambeau").handlers, logging.WARNING)


def _set_handlers(name: str, handlers: list[logging.Handler], level: int) -> None:
    """Replace a logger's handlers; the old ones are closed."""
    logger = logging.getLogger(name)
    logger.setLevel(level)
    logger.propagate = False
    for old in logger.handlers[:]:
        logger.removeHandler(old)
        old.close()
    for handler in handlers:
        logger.addHandler(handler)
