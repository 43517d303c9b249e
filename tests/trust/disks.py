"""Disks that lose power or fail, for code that runs in this process.

`recorded` notes every call that changes a file below a folder; `after_power_loss` builds what a disk
may hold when the power goes after some of them. `failing` makes the n-th call of a kind fail.
"""

import contextlib
import errno
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

_SECTOR = 512
_WRITING = os.O_WRONLY | os.O_RDWR


class Step(msgspec.Struct, frozen=True):
    """One call that changed the disk: `create`, `write`, `fsync`, `rename`, `unlink`, `syncdir`.

    `file` numbers the inode, so that a write is known after a rename; paths are relative.
    """

    what: str
    path: str
    file: int = 0
    data: bytes = b""
    target: str = ""


class Recorder:
    """Watches `os`' calls below `folder`; files that were there before are known by name only."""

    def __init__(self, folder: Path) -> None:
        self.steps: list[Step] = []
        self._folder = folder
        self._open: dict[int, tuple[str, int, bool]] = {}
        self._inodes = 0

    def name(self, path: Any) -> str | None:
        """The path below the folder, None for one elsewhere."""
        with contextlib.suppress(TypeError, ValueError):
            return str(Path(os.fspath(path)).relative_to(self._folder))
        return None

    def opened(self, path: Any, flags: int, descriptor: int) -> None:
        """A file or folder was opened."""
        if (name := self.name(path)) is None:
            return
        if flags & os.O_CREAT:
            self._inodes += 1
            self.steps.append(Step("create", name, self._inodes))
        self._open[descriptor] = (name, self._inodes, bool(flags & _WRITING))

    def wrote(self, descriptor: int, data: bytes) -> None:
        """Bytes were written."""
        if descriptor in self._open:
            name, inode, _ = self._open[descriptor]
            self.steps.append(Step("write", name, inode, bytes(data)))

    def synced(self, descriptor: int) -> None:
        """A file or a folder was flushed."""
        if descriptor in self._open:
            name, inode, is_file = self._open[descriptor]
            self.steps.append(Step("fsync" if is_file else "syncdir", name, inode))

    def closed(self, descriptor: int) -> None:
        """The number may be given away again."""
        self._open.pop(descriptor, None)


class _Handle:
    """A file whose writes are seen; buffered until `flush`, as `os.fdopen`'s are."""

    def __init__(self, file: Any, recorder: Recorder) -> None:
        self._file = file
        self._recorder = recorder
        self._waiting = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_Handle":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, data: bytes) -> int:
        self._waiting += data
        return len(data)

    def flush(self) -> None:
        for start in range(0, len(self._waiting), 4096):  # as a buffered file would, and worse
            part = self._waiting[start : start + 4096]
            self._recorder.wrote(self._file.fileno(), part)
            self._file.write(part)
            self._file.flush()
        self._waiting = b""

    def close(self) -> None:
        self.flush()
        self._recorder.closed(self._file.fileno())
        self._file.close()


@contextlib.contextmanager
def recorded(folder: Path) -> Iterator[list[Step]]:
    """The steps that this process takes below `folder` through `os`, while the block runs."""
    recorder = Recorder(folder)
    real_open, real_fdopen, real_close, real_fsync = os.open, os.fdopen, os.close, os.fsync
    real_rename, real_replace, real_unlink = os.rename, os.replace, os.unlink

    def opening(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        descriptor = real_open(path, flags, mode, dir_fd=dir_fd)
        recorder.opened(path, flags, descriptor)
        return descriptor

    def fsyncing(descriptor: Any) -> None:
        real_fsync(descriptor)
        recorder.synced(descriptor if isinstance(descriptor, int) else descriptor.fileno())

    def closing(descriptor: int) -> None:
        recorder.closed(descriptor)
        real_close(descriptor)

    def renaming(real: Callable[..., None]) -> Callable[..., None]:
        def rename(source: Any, target: Any) -> None:
            real(source, target)
            if (name := recorder.name(source)) is not None:
                recorder.steps.append(Step("rename", name, target=str(recorder.name(target))))

        return rename

    def unlinking(path: Any) -> None:
        real_unlink(path)
        if (name := recorder.name(path)) is not None:
            recorder.steps.append(Step("unlink", name))

    def fdopening(descriptor: int, *arguments: Any, **options: Any) -> Any:
        file = real_fdopen(descriptor, *arguments, **options)
        return _Handle(file, recorder) if descriptor in recorder._open else file

    patched: dict[str, Any] = {
        "open": opening, "fdopen": fdopening, "close": closing, "fsync": fsyncing,
        "rename": renaming(real_rename), "replace": renaming(real_replace), "unlink": unlinking,
    }  # fmt: skip
    with _instead(patched):
        yield recorder.steps


@contextlib.contextmanager
def _instead(patched: dict[str, Any]) -> Iterator[None]:
    real = {name: getattr(os, name) for name in patched}
    for name, function in patched.items():
        setattr(os, name, function)
    try:
        yield
    finally:
        for name, function in real.items():
            setattr(os, name, function)


class _Cut:
    """What survived: contents by inode, and names, each as of the last flush or as they were."""

    def __init__(self, before: dict[str, bytes]) -> None:
        self.names: dict[str, int] = {name: -1 - index for index, name in enumerate(sorted(before))}
        self.contents: dict[int, list[bytes]] = {
            self.names[name]: [data] for name, data in before.items()
        }
        self.flushed: dict[int, int] = dict.fromkeys(self.contents, 1)


def after_power_loss(
    before: dict[str, bytes], steps: list[Step], choose: random.Random, mode: str
) -> dict[str, bytes]:
    """Files by name after a cut behind `steps`, of a folder that held `before`.

    What was flushed is there. `mode` says what of the rest is: `all` of it; `data-lost`, only names
    (a journal of metadata alone: the usual surprise); `names-lost`, only what the folder's own flush
    has kept; or `torn`, a part of the unflushed bytes that ends within a sector's bounds.
    """
    disk = _Cut(before)
    kept_names = dict(disk.names)
    for step in steps:
        match step.what:
            case "create":
                disk.names[step.path] = step.file
                disk.contents.setdefault(step.file, [])
                disk.flushed.setdefault(step.file, 0)
            case "write":
                disk.contents[step.file].append(step.data)
            case "fsync":
                disk.flushed[step.file] = len(disk.contents[step.file])
            case "rename":
                disk.names[step.target] = disk.names.pop(step.path)
            case "unlink":
                disk.names.pop(step.path, None)
            case "syncdir":
                kept_names = dict(disk.names)
            case _:
                raise ValueError(step.what)
    names = kept_names if mode == "names-lost" else disk.names
    found = {}
    for name, inode in names.items():
        whole = b"".join(disk.contents[inode])
        safe = len(b"".join(disk.contents[inode][: disk.flushed[inode]]))
        found[name] = _survivor(whole, safe, choose, mode)
    return found


def _survivor(whole: bytes, safe: int, choose: random.Random, mode: str) -> bytes:
    if mode == "all" or safe == len(whole):
        return whole
    if mode == "torn":
        sectors = choose.randrange(0, (len(whole) - safe) // _SECTOR + 1)
        end = safe + sectors * _SECTOR
        return whole[:end] + bytes(min(_SECTOR, len(whole) - end))  # a length, but no bytes yet
    return whole[:safe]


def write_disk(folder: Path, files: dict[str, bytes]) -> None:
    """Make `folder` hold these files and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def read_disk(folder: Path) -> dict[str, bytes]:
    """Files of a folder by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@contextlib.contextmanager
def failing(names: tuple[str, ...], number: int, code: int) -> Iterator[Callable[[], int]]:
    """Let the `number`-th call (from 1) of `os`' functions `names` fail with an errno, and all after
    it for ENOSPC. Yields how many calls there were."""
    calls = 0
    real_unlink = os.unlink

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            if code == errno.ENOSPC and real is real_unlink:
                return real(*arguments, **options)  # a full disk takes files off all the same
            calls += 1
            if calls == number or (code == errno.ENOSPC and calls > number > 0):
                raise OSError(code, os.strerror(code), str(arguments[0]) if arguments else None)
            return real(*arguments, **options)

        return call

    with _instead({name: wrap(getattr(os, name)) for name in names}):
        yield lambda: calls
