"""Sets up logging for a command, with an error of one line where that is not possible."""

import logging
from pathlib import Path
from typing import Literal

from flambeau.errors import ConfigError
from flambeau.telemetry.logging import configure_logging


def set_up_logging(
    folder: Path | None,
    *,
    metrics_folder: Path | None = None,
    console: Literal["stdout", "stderr"] | None = "stderr",
    level: int = logging.INFO,
) -> None:
    """Send log lines to the console and to files in both folders. Raises `ConfigError`."""
    try:
        configure_logging(folder, metrics_folder=metrics_folder, console=console, level=level)
    except OSError as error:
        raise ConfigError(
            f"Log files cannot be written to {error.filename or folder}: {error.strerror or error}. Name another"
            " folder with LOG_LOCATION (or flambeau serve --log-folder)."
        ) from error
