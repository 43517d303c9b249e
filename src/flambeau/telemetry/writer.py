"""Log lines on their way out, through a thread of its own, so that no disk, pipe or terminal holds
the server up.

Whoever reads the console may stop reading (a full pipe, a terminal that is paused), a disk may be
slow or full. Only the writing thread waits. Lines queue up to a limit; what comes then is dropped,
and counted in one line once there is room.
"""

import contextlib
import os
import queue
import threading
from collections.abc import Callable
from typing import Protocol, TextIO

MAX_WAITING_LINES = 4096
"""Log records that wait for the console; one from a handler has at most 16 KiB."""

_CLOSE_SECONDS = 2.0
"""How long the end of the process waits for a reader that has stopped."""

_AT_ONCE = 512
"""Lines that are written together at most."""

_LINGER_SECONDS = 0.02
"""Between two writes: lines that come meanwhile wake no thread and go out together."""


class Sink(Protocol):
    """Where lines end up. Called by the writing thread only."""

    def write(self, text: str) -> None:
        """Write whole lines; may wait, raises nothing."""

    def close(self) -> None:
        """Nothing more will come."""


class LineWriter:
    """A queue of lines and the thread that writes them; it starts with the first line, so that a
    fork before is safe."""

    def __init__(
        self, name: str, notice: Callable[[str], str], limit: int = MAX_WAITING_LINES
    ) -> None:
        """`notice` makes a log line of the text that tells how many lines were dropped; it goes to
        the sink that was added first."""
        self._name = name
        self._notice = notice
        self._limit = limit
        self._waiting: queue.SimpleQueue[tuple[Sink, str] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._sinks: list[Sink] = []
        self._closing = threading.Event()
        self._dropped = 0

    def add(self, sink: Sink) -> None:
        """Close this sink at the end."""
        self._sinks.append(sink)

    def put(self, sink: Sink, line: str) -> None:
        """Hand a line over; never waits."""
        if self._closing.is_set():
            return
        if self._waiting.qsize() >= self._limit:
            self._dropped += 1  # a few may go uncounted when threads meet here
            return
        self._waiting.put((sink, line))
        if self._thread is None:
            self._start()

    def close(self) -> None:
        """Write what waits, within two seconds where the reader has stopped. May be repeated."""
        with self._lock:
            self._closing.set()
            thread, self._thread = self._thread, None
        self._waiting.put(None)
        if thread is not None:
            thread.join(_CLOSE_SECONDS)
            if thread.is_alive():
                return  # the reader has stopped: the thread ends with the process
        for sink in self._sinks:
            sink.close()
        self._sinks.clear()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def _run(self) -> None:
        more = True
        while more:
            if self._waiting.qsize() < _AT_ONCE:
                self._closing.wait(_LINGER_SECONDS)
            batches: dict[Sink, list[str]] = {}
            more = self._collect(batches)
            for sink, lines in batches.items():
                sink.write("\n".join(lines) + "\n")
            if self._dropped and self._waiting.empty():
                count, self._dropped = self._dropped, 0
                text = f"{count} log lines were dropped here: whatever takes them was too slow"
                self._sinks[0].write(self._notice(text) + "\n")

    def _collect(self, batches: dict[Sink, list[str]]) -> bool:
        """Wait for a line and take what else is there. False: that was the last."""
        item = self._waiting.get()
        for _ in range(_AT_ONCE):
            if item is None:
                return False
            batches.setdefault(item[0], []).append(item[1])
            try:
                item = self._waiting.get_nowait()
            except queue.Empty:
                return True
        if item is not None:
            batches.setdefault(item[0], []).append(item[1])
        return item is not None


class StreamSink:
    """The console."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write to the descriptor: a thread that waits must not hold the lock of `sys.stderr`.

        The interpreter takes that lock when it ends, and aborts where it cannot have it.
        """
        with contextlib.suppress(OSError, ValueError):  # closed: nobody is left to be told
            try:
                descriptor = self._stream.fileno()
            except (OSError, AttributeError):  # no real stream, as under a test's capture
                self._stream.write(text)
                return
            data = text.encode(self._stream.encoding or "utf-8", "backslashreplace")
            while data:
                data = data[os.write(descriptor, data) :]

    def close(self) -> None:
        """The stream is not ours."""
