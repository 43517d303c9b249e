"""Log lines on their way out, through a thread of its own, so that no disk, pipe or terminal holds
the server up.

Whoever reads the console may stop reading (a full pipe, a terminal that is paused), a disk may be
slow or full. Only the writing thread waits. Lines queue up to a limit; what comes then is dropped,
and counted in one line once there is room.
"""

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Protocol, TextIO

MAX_WAITING_LINES = 4096
"""Log records that wait for one sink; one from a handler has at most 16 KiB."""

_CLOSE_SECONDS = 2.0
"""How long the end of the process waits for a reader that has stopped."""

_AT_ONCE = 512
"""Lines that are written together at most."""

_LINGER_SECONDS = 0.02
"""Between two writes: lines that come meanwhile wake no thread and go out together."""


lost_lines = {"slow": 0, "disk": 0}
"""Lines that this process lost since it began: dropped because whatever takes them was too slow, or
refused by a full or broken disk. Threads that meet may leave a few uncounted."""


class Sink(Protocol):
    """Where lines end up. Called by the writing thread only."""

    def write(self, text: str) -> None:
        """Write whole lines; may wait, raises nothing."""

    def close(self) -> None:
        """Nothing more will come."""


class LineWriter:
    """Lines that wait for their sinks, and the thread that writes them; it starts with the first
    line, so that a fork before is safe.

    Handing a line over is one append to a list: there may be ten with each request.
    """

    def __init__(
        self, name: str, notice: Callable[[str], str], limit: int = MAX_WAITING_LINES
    ) -> None:
        """`limit` is how many lines may wait for one sink. `notice` makes a log line of the text
        that tells how many were dropped; it goes to the sink that was added first."""
        self._name = name
        self._notice = notice
        self._limit = limit
        self._waiting: dict[Sink, list[str]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._news = threading.Event()
        self._awake = False  # whether the thread looks for lines by itself
        self._closing = threading.Event()
        self._ended = False
        self._dropped = 0

    def add(self, sink: Sink) -> None:
        """Write to this sink, and close it at the end."""
        self._waiting.setdefault(sink, [])

    def put(self, sink: Sink, line: str) -> None:
        """Hand a line over; never waits."""
        if self._ended:
            return
        lines = self._waiting[sink]
        if len(lines) >= self._limit:
            self._dropped += 1  # a few may go uncounted when threads meet here
            lost_lines["slow"] += 1
            return
        lines.append(line)
        if not self._awake:
            self._wake()

    def close(self) -> None:
        """Write what waits, within two seconds where the reader has stopped. May be repeated."""
        with self._lock:
            self._ended = True
            self._closing.set()
            thread, self._thread = self._thread, None
        self._news.set()
        if thread is not None:
            thread.join(_CLOSE_SECONDS)
            if thread.is_alive():
                return  # the reader has stopped: the thread ends with the process
        for sink in self._waiting:
            sink.close()
        self._waiting.clear()

    def _wake(self) -> None:
        self._awake = True
        self._news.set()
        with self._lock:
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            ending = self._closing.is_set()  # nothing comes after this
            if not any(self._waiting.values()):
                if ending:
                    return
                self._awake = False
                if not any(self._waiting.values()):  # what comes now, sets `_news`
                    self._news.wait()
                self._news.clear()
                self._awake = True
            if max(map(len, self._waiting.values())) < _AT_ONCE:
                self._closing.wait(_LINGER_SECONDS)
            for sink, lines in list(self._waiting.items()):
                if lines:
                    batch = lines[:_AT_ONCE]  # others only append
                    del lines[: len(batch)]
                    sink.write("\n".join(batch) + "\n")
            if self._dropped and not any(self._waiting.values()):
                count, self._dropped = self._dropped, 0
                text = f"{count} log lines were dropped here: whatever takes them was too slow"
                next(iter(self._waiting)).write(self._notice(text) + "\n")


class StreamSink:
    """The console."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write to the descriptor: a thread that waits must not hold the lock of `sys.stderr`.

        The interpreter takes that lock when it ends, and aborts where it cannot have it.
        """
        try:
            descriptor = self._stream.fileno()
        except (OSError, ValueError, AttributeError):  # no real stream, as under a test's capture
            with contextlib.suppress(OSError, ValueError):
                self._stream.write(text)
            return
        data = text.encode(self._stream.encoding or "utf-8", "backslashreplace")
        try:
            while data:
                data = data[os.write(descriptor, data) :]
        except OSError:  # closed, or a file on a full disk: nobody is left to be told
            lost_lines["disk"] += data.count(b"\n")

    def close(self) -> None:
        """The stream is not ours."""
