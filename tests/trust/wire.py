"""Raw bytes to a server's ports: what no HTTP client would send."""

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3})[^\r\n]*\r\n")


def connect(base: str, seconds: float = 30) -> socket.socket:
    """A connection to a base address such as `http://127.0.0.1:8080`."""
    url = urlsplit(base)
    return socket.create_connection((url.hostname, url.port), timeout=seconds)


def rest(sock: socket.socket) -> bytes:
    """What comes until the server ends the connection, or for as long as the socket waits."""
    received = bytearray()
    with contextlib.suppress(OSError):
        while part := sock.recv(1 << 16):
            received += part
    return bytes(received)


def ask(base: str, *parts: bytes, seconds: float = 30) -> int:
    """Send parts on a connection of their own; returns the first answer's status, 0 without one."""
    received = b""
    with connect(base, seconds) as sock, contextlib.suppress(OSError):
        with contextlib.suppress(OSError):
            for part in parts:
                sock.sendall(part)
        while b"\r\n" not in received and (part := sock.recv(1 << 16)):
            received += part
    return next(iter(statuses(received)), 0)


def statuses(received: bytes) -> list[int]:
    """The statuses of the responses in what was received."""
    return [int(each) for each in _STATUS.findall(received)]


def memory(pid: int, field: str) -> int:
    """`VmRSS` or `VmHWM` (the most since `reset_peak`) of a process, in bytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", text)[1]) * 1024  # type: ignore[index]  # there


def reset_peak(pid: int) -> None:
    """Let `VmHWM` begin anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


class Lag:
    """The longest time that an own connection waited for a tiny answer, asked for every 5 ms."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._stopping = threading.Event()
        self.longest = 0.0

    @contextlib.contextmanager
    def watched(self) -> Iterator["Lag"]:
        """Ask while the block runs."""
        thread = threading.Thread(target=self._ask)
        thread.start()
        try:
            yield self
        finally:
            self._stopping.set()
            thread.join()

    def _ask(self) -> None:
        with connect(self._base) as sock:
            while not self._stopping.wait(0.005):
                started = time.monotonic()
                sock.sendall(b"OPTIONS / HTTP/1.1\r\nhost: h\r\n\r\n")
                sock.recv(1 << 16)
                self.longest = max(self.longest, time.monotonic() - started)
