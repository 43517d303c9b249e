"""The server's end of a process's lifeline (`flambeau.worker.lifeline`)."""

import contextlib
import fcntl
import os
import termios
from pathlib import Path

_MOST_BYTES = 64 * 1024
"""Last words that are kept: what a pipe holds."""


class Lifeline:
    """A pipe: the process ends when this end is closed, and its last words wait here."""

    def __init__(self) -> None:
        self._ours, self.theirs = os.pipe()
        for end in (self._ours, self.theirs):
            os.set_blocking(end, False)

    def handed_over(self) -> None:
        """The process has its end: close the copy."""
        if self.theirs >= 0:
            os.close(self.theirs)
            self.theirs = -1

    def waiting(self) -> int:
        """Bytes that the process has written."""
        if self._ours < 0:
            return 0
        return int.from_bytes(fcntl.ioctl(self._ours, termios.FIONREAD, b"\0" * 4), "little")

    def last_words(self) -> list[str]:
        """Lines that a dead process has left; reading them from a living one may end it."""
        if self._ours < 0:
            return []
        with contextlib.suppress(BlockingIOError):
            return os.read(self._ours, _MOST_BYTES).decode(errors="replace").splitlines()
        return []

    def close(self) -> None:
        """End the process, and those that it has forked."""
        self.handed_over()
        if self._ours >= 0:
            os.close(self._ours)
            self._ours = -1


def process_state(pid: int) -> str:
    """What the kernel says that a process does, for people."""
    try:
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "in an unknown state"
    return _STATES.get(letter, f"in state {letter}")


_STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "waiting for a device",
    "T": "stopped by a signal",
    "t": "stopped by a debugger",
    "Z": "dead",
}
