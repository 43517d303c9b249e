"""What becomes of each response that is complete: it is counted, and gets a line in the access log."""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

import msgspec

from flambeau.ipc.frontend_messages import Responses
from flambeau.telemetry.logging import log_time, write_line
from flambeau.telemetry.metrics import Metrics

access_log = logging.getLogger("ACCESS_LOG")

_TELL_SECONDS = 0.05
"""How long a front-end process collects before it tells the core: one message for many responses."""


class ResponseLog(Protocol):
    """Takes note of responses."""

    @property
    def wants_lines(self) -> bool:
        """Whether lines are written at all."""

    def add(self, status: int, line: str) -> None:
        """One response, and its line for the access log ("" where none is wanted)."""


class LocalResponses:
    """In the server process itself."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    @property
    def wants_lines(self) -> bool:
        """As the logger says."""
        return access_log.isEnabledFor(logging.INFO)

    def add(self, status: int, line: str) -> None:
        """Count and write at once."""
        self._metrics.response(status)
        if line:
            write_line(access_log, line)

    def take(self, told: Responses) -> None:
        """What another front end has collected."""
        for status in told.statuses:
            self._metrics.response(status)
        for when, line in told.lines:
            write_line(access_log, line, when)


class RemoteResponses:
    """In a front-end process: collected, and told to the core now and then."""

    def __init__(self, send: Callable[[msgspec.Struct], None], *, wants_lines: bool) -> None:
        self.wants_lines = wants_lines
        self._send = send
        self._statuses: list[int] = []
        self._lines: list[tuple[str, str]] = []

    def add(self, status: int, line: str) -> None:
        """Collect one; the first one sets the timer."""
        if not self._statuses:
            asyncio.get_running_loop().call_later(_TELL_SECONDS, self.flush)
        self._statuses.append(status)
        if line:
            self._lines.append((log_time()[0], line))

    def flush(self) -> None:
        """Tell what was collected."""
        if self._statuses:
            self._send(Responses(self._statuses, self._lines))
            self._statuses, self._lines = [], []
