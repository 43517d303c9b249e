"""Log files that roll: at 100 MB and with a new day, compressed, five kept (section 2.7)."""

import contextlib
import gzip
import os
import re
import shutil
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import BinaryIO

from flambeau.telemetry.writer import lost_lines

ROLL_BYTES = 100 * 1024 * 1024
KEPT = 5


class RollingFile:
    """`<name>.log`; older ones are `<name>.<day>.<number>.log.gz`. Opened at once, so that a folder
    that cannot be written is an error of the start.

    Raises `OSError` on construction. Later failures (a full disk) are told once on stderr, and
    lines are lost, and counted, until it works again: each whole, never a half of one.
    """

    def __init__(self, path: Path, roll_bytes: int = ROLL_BYTES) -> None:
        self._path = path
        self._roll_bytes = roll_bytes
        self._failing = False
        self._file: BinaryIO | None = None
        self._size = 0
        self._day = _today()
        self._open()

    def write(self, text: str) -> None:
        """Append whole lines, after rolling where it is time."""
        data = left = text.encode("utf-8", "backslashreplace")
        try:
            if self._file is None:
                self._open()
            if self._size and (self._size + len(data) > self._roll_bytes or _today() != self._day):
                self._roll()
            assert self._file is not None
            if not self._size:
                self._day = _today()
            while left:  # one write may take a part only
                left = left[os.write(self._file.fileno(), left) :]
            self._failing = False
        except OSError as error:
            lost = self._cut_to_lines(data[: len(data) - len(left)]) + left
            lost_lines["disk"] += lost.count(b"\n")
            if not self._failing:
                self._failing = True
                with contextlib.suppress(OSError, ValueError):  # stderr may be gone, too
                    sys.stderr.write(f"{self._path}: lines are lost: {error.strerror or error}\n")
        else:
            self._size += len(data)

    def _cut_to_lines(self, written: bytes) -> bytes:
        """Take the begin of a line off again, which is returned."""
        whole = written.rfind(b"\n") + 1
        self._size += whole
        if self._file is not None and whole < len(written):
            with contextlib.suppress(OSError):
                os.truncate(self._file.fileno(), self._size)
        return written[whole:]

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        self._file = self._path.open("ab", buffering=0)
        self._size = self._file.tell()
        changed = datetime.fromtimestamp(self._path.stat().st_mtime, UTC).astimezone().date()
        self._day = changed if self._size else _today()

    def _roll(self) -> None:
        self.close()
        day = self._day.isoformat()
        number = 1 + max((count for when, count, _ in self._rolled() if when == day), default=0)
        moved = self._path.with_name(f"{self._path.stem}.{day}.{number}.log")
        self._path.rename(moved)
        self._open()
        for _, _, file in self._rolled():
            if file.suffix != ".gz":  # what was moved now, or stayed where a disk was full before
                self._pack(file)
        for _, _, file in self._rolled()[:-KEPT]:
            file.unlink(missing_ok=True)

    @staticmethod
    def _pack(moved: Path) -> None:
        """Compress a file that is written no more; where that fails it stays as it is."""
        packed = moved.with_name(f"{moved.name}.gz")
        try:
            with moved.open("rb") as source, gzip.open(packed, "wb", compresslevel=6) as target:
                shutil.copyfileobj(source, target, 1024 * 1024)
        except OSError:
            with contextlib.suppress(OSError):
                packed.unlink(missing_ok=True)
            return
        moved.unlink()

    def _rolled(self) -> list[tuple[str, int, Path]]:
        """Day, number and file of what was rolled, the oldest first. Others' files are not ours."""
        found = []
        for file in self._path.parent.glob(f"{self._path.stem}.*.log*"):
            match = re.fullmatch(r"\w+\.(\d{4}-\d\d-\d\d)\.(\d+)\.log(\.gz)?", file.name)
            if match:
                found.append((match[1], int(match[2]), file))
        return sorted(found)


def _today() -> date:
    return datetime.now(UTC).astimezone().date()
