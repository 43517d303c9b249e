"""Unpacked archives, kept by content, shared by every server of this user, and pruned.

An archive is unpacked once, into `<folder>/<its SHA-256>/`:

    model/          the archive's files
    contents.json   their names and sizes, the last thing that is written

The whole folder appears by a rename. Two locks belong to each, so that processes may share a cache:
`.<digest>.lock` is held while it is made or removed, and `.<digest>.use`, shared, as long as a
server has a model in it. Files that a handler adds below `model/` are let be.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import threading
import weakref
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from flambeau.archive.staging import STAGE_SUFFIX, staged_folder
from flambeau.archive.unpack import UnpackedFile

_MODEL_FOLDER = "model"
_CONTENTS_FILE = "contents.json"


class CacheBounds(msgspec.Struct, frozen=True, kw_only=True):
    """What of the archives that nobody uses is kept: newest first, up to so many bytes and days.

    0 days stands for no limit.
    """

    max_bytes: int = 64 * 1024**3
    max_days: int = 30


class _Use(msgspec.Struct):
    """This process's hold on an unpacked archive: the locked descriptor, how many models have it."""

    descriptor: int
    count: int


class _Unused(msgspec.Struct, frozen=True):
    """An unpacked archive: its size in bytes, and when it was last opened."""

    digest: str
    size: int
    opened: datetime


class ArchiveCache:
    """The unpacked archives below `folder`. All methods may be called in any thread."""

    def __init__(self, folder: Path, bounds: CacheBounds) -> None:
        self.folder = folder
        self._bounds = bounds
        self._uses: dict[str, _Use] = {}
        self._guard = threading.Lock()
        weakref.finalize(self, _let_go, self._uses)

    def open(
        self, digest: str, fill: Callable[[Path], tuple[UnpackedFile, ...]], *, afresh: bool = False
    ) -> Path:
        """Return the folder of the archive's files, filled by `fill` unless it is there already.

        `afresh` fills it anyway, unless this process uses it: what lies there may have been
        written to, but a model's files are never taken from under it. The folder stays until
        `release`, or until this process ends. Raises `OSError`, and what `fill` raises; then
        nothing new is in the cache.
        """
        target = self.folder / digest
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self._lock_file(digest)):
            filled = (afresh and not self._in_use(digest)) or not _is_intact(target)
            if filled:
                for leftover in self.folder.glob(f".{digest}.*{STAGE_SUFFIX}"):
                    shutil.rmtree(leftover, ignore_errors=True)
                with staged_folder(target) as stage:
                    model_dir = stage / _MODEL_FOLDER
                    model_dir.mkdir()
                    files = fill(model_dir)
                    (stage / _CONTENTS_FILE).write_bytes(msgspec.json.encode(files))
            with contextlib.suppress(OSError):  # another user's cache: it just looks unused
                os.utime(target)
            self._hold(digest)
        if filled:
            with contextlib.suppress(OSError):  # there is a next time
                self.prune()
        return target / _MODEL_FOLDER

    def release(self, digest: str) -> None:
        """Say that one user of `open` is done with the archive."""
        with self._guard:
            use = self._uses.get(digest)
            if use is None:
                return
            use.count -= 1
            if use.count == 0:
                del self._uses[digest]
                os.close(use.descriptor)

    def prune(self) -> None:
        """Remove archives that no process uses, beyond the bounds, and what killed ones left.

        Raises `OSError` if the cache cannot be read.
        """
        for leftover in self.folder.glob(f".*{STAGE_SUFFIX}"):
            digest = leftover.name.split(".")[1]
            with contextlib.suppress(OSError), _locked(self._lock_file(digest), wait=False):
                shutil.rmtree(leftover, ignore_errors=True)
        now = datetime.now(UTC)
        oldest = now - timedelta(days=self._bounds.max_days)
        left = self._bounds.max_bytes
        for each in sorted(self._found(), key=lambda each: each.opened, reverse=True):
            left -= each.size
            too_old = self._bounds.max_days > 0 and each.opened < oldest
            if (left < 0 or too_old) and self._remove(each.digest):
                left += each.size

    def _found(self) -> Iterator[_Unused]:
        for path in self.folder.iterdir():
            if path.name.startswith("."):
                continue
            with contextlib.suppress(OSError, msgspec.DecodeError):
                size = sum(file.size for file in _contents(path))
                yield _Unused(path.name, size, datetime.fromtimestamp(path.stat().st_mtime, UTC))

    def _remove(self, digest: str) -> bool:
        """Remove an archive unless a process uses or makes it; says whether it is gone."""
        try:
            with (
                _locked(self._lock_file(digest), wait=False) as lock,
                _locked(self._use_file(digest), wait=False) as use,
            ):
                # Renamed first: half an archive must never look like a whole one.
                away = self.folder / f".{digest}.gone{STAGE_SUFFIX}"
                (self.folder / digest).rename(away)
                shutil.rmtree(away, ignore_errors=True)
                for path in (use, lock):
                    path.unlink(missing_ok=True)
        except OSError:  # BlockingIOError: somebody has it
            return False
        return True

    def _in_use(self, digest: str) -> bool:
        with self._guard:
            return digest in self._uses

    def _hold(self, digest: str) -> None:
        with self._guard:
            use = self._uses.get(digest)
            if use is None:
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
                descriptor = os.open(self._use_file(digest), flags, 0o644)
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                use = self._uses[digest] = _Use(descriptor, 0)
            use.count += 1

    def _lock_file(self, digest: str) -> Path:
        return self.folder / f".{digest}.lock"

    def _use_file(self, digest: str) -> Path:
        return self.folder / f".{digest}.use"


def _let_go(uses: dict[str, _Use]) -> None:
    while uses:
        os.close(uses.popitem()[1].descriptor)


def _contents(target: Path) -> tuple[UnpackedFile, ...]:
    contents = (target / _CONTENTS_FILE).read_bytes()
    return msgspec.json.decode(contents, type=tuple[UnpackedFile, ...])


def _is_intact(target: Path) -> bool:
    """Say whether every file that was unpacked is still there, with its size."""
    try:
        for file in _contents(target):
            status = (target / _MODEL_FOLDER / file.name).lstat()
            if not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
                return False
    except (OSError, msgspec.DecodeError):
        return False
    return True


@contextlib.contextmanager
def _locked(path: Path, *, wait: bool = True) -> Iterator[Path]:
    """Hold an exclusive lock on the file `path` against other processes and threads.

    Without `wait`, raises `BlockingIOError` if somebody has it. The holder may remove the file:
    whoever waited for it then takes the new one.
    """
    while True:
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            try:
                current = os.path.samestat(os.fstat(file.fileno()), path.stat())
            except FileNotFoundError:
                current = False
            if current:
                yield path
                return
