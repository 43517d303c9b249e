"""A console that never holds the server up: a thread of its own writes the lines.

Whoever reads the console may stop reading (a full pipe, a terminal that is paused), and a write to
it then blocks for as long. Here only the writing thread waits. Lines queue up to a limit; what
comes then is dropped, and counted in one line once the reader is back.
"""

import contextlib
import logging
import os
import queue
import threading
from typing import TextIO

from typing_extensions import override

MAX_WAITING_LINES = 4096
"""Log records that wait for the console; one from a handler has at most 16 KiB."""

_CLOSE_SECONDS = 2.0
"""How long the end of the process waits for a reader that has stopped."""


class Console:
    """Lines on their way to a stream. The thread starts with the first: a fork before is safe."""

    def __init__(self, stream: TextIO, notice: logging.Formatter) -> None:
        """`notice` formats the line that tells how many were dropped."""
        self._stream = stream
        self._notice = notice
        self._waiting: queue.Queue[str | None] = queue.Queue(MAX_WAITING_LINES)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._dropped = 0

    def write(self, line: str) -> None:
        """Hand a line over; never waits."""
        with self._lock:
            if self._closed:
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="console", daemon=True)
                self._thread.start()
            try:
                self._waiting.put_nowait(line)
            except queue.Full:
                self._dropped += 1

    def close(self) -> None:
        """Write what waits, within two seconds where the reader has stopped. May be repeated."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is None:
            return
        try:
            self._waiting.put(None, timeout=_CLOSE_SECONDS)
        except queue.Full:
            return  # the reader has stopped: the thread ends with the process
        thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while (line := self._waiting.get()) is not None:
            self._put(line)
            if self._dropped and self._waiting.empty():
                self._tell_dropped()
        if self._dropped:
            self._tell_dropped()

    def _tell_dropped(self) -> None:
        with self._lock:
            count, self._dropped = self._dropped, 0
        text = f"{count} log lines were dropped here: whoever reads the console was too slow"
        record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, None, None)
        self._put(self._notice.format(record))

    def _put(self, line: str) -> None:
        """Write to the descriptor: a thread that waits must not hold the lock of `sys.stderr`.

        The interpreter takes that lock when it ends, and aborts where it cannot have it.
        """
        with contextlib.suppress(OSError, ValueError):  # closed: nobody is left to be told
            try:
                descriptor = self._stream.fileno()
            except (OSError, AttributeError):  # no real stream, as under a test's capture
                self._stream.write(line + "\n")
                return
            data = (line + "\n").encode(self._stream.encoding or "utf-8", "backslashreplace")
            while data:
                data = data[os.write(descriptor, data) :]


class ConsoleHandler(logging.Handler):
    """Sends records to a `Console`; several loggers may share one.

    `logging` closes its handlers at the end of the process, which writes what still waits.
    """

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    @override
    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._console.write(self.format(record))
        except Exception:  # noqa: BLE001  # a bad log call must not fail a request
            self.handleError(record)

    @override
    def close(self) -> None:
        self._console.close()
        super().close()
