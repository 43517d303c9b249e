"""Log files that roll: at 100 MB and with a new day, compressed, five kept (section 2.7)."""

import contextlib
import gzip
import re
import shutil
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import BinaryIO

ROLL_BYTES = 100 * 1024 * 1024
KEPT = 5


class RollingFile:
    """`<name>.log`; older ones are `<name>.<day>.<number>.log.gz`. Opened at once, so that a folder
    that cannot be written is an error of the start.

    Raises `OSError` on construction. Later failures (a full disk) are told once on stderr, and
    lines are lost until it works again.
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
        data = text.encode("utf-8", "backslashreplace")
        try:
            if self._size and (self._size + len(data) > self._roll_bytes or _today() != self._day):
                self._roll()
            if self._file is None:
                self._open()
            assert self._file is not None
            if not self._size:
                self._day = _today()
            self._file.write(data)
            self._file.flush()
            self._size += len(data)
            self._failing = False
        except OSError as error:
            if not self._failing:
                self._failing = True
                with contextlib.suppress(OSError, ValueError):  # stderr may be gone, too
                    sys.stderr.write(f"{self._path}: lines are lost: {error.strerror or error}\n")

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
        with moved.open("rb") as source, gzip.open(f"{moved}.gz", "wb", compresslevel=6) as packed:
            shutil.copyfileobj(source, packed, 1024 * 1024)
        moved.unlink()
        for _, _, file in self._rolled()[:-KEPT]:
            file.unlink(missing_ok=True)

    def _rolled(self) -> list[tuple[str, int, Path]]:
        """Day, number and file of what was rolled, the oldest first. Others' files are not ours."""
        found = []
        for file in self._path.parent.glob(f"{self._path.stem}.*.log.gz"):
            match = re.fullmatch(r"\w+\.(\d{4}-\d\d-\d\d)\.(\d+)\.log\.gz", file.name)
            if match:
                found.append((match[1], int(match[2]), file))
        return sorted(found)


def _today() -> date:
    return datetime.now(UTC).astimezone().date()
