"""File systems of a suite's own: a mount namespace of this process, which its servers inherit."""

import ctypes
import errno
import os
from pathlib import Path

_NEW_NAMESPACE, _NEW_USER = 0x00020000, 0x10000000
_READ_ONLY, _REMOUNT, _RECURSIVE, _PRIVATE, _DETACH = 1, 32, 16384, 1 << 18, 2
_libc = ctypes.CDLL(None, use_errno=True)


def own_namespace() -> bool:
    """Give this process, which must have one thread, mounts of its own; False where it may not."""
    user, group = os.geteuid(), os.getegid()
    if _libc.unshare(_NEW_NAMESPACE) != 0:
        if _libc.unshare(_NEW_USER | _NEW_NAMESPACE) != 0:
            return False
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    return bool(_libc.mount(b"none", b"/", None, _RECURSIVE | _PRIVATE, None) == 0)


def mount_memory(folder: Path, megabytes: int) -> None:
    """Mount a disk in memory at `folder`. Raises `OSError`."""
    folder.mkdir(parents=True, exist_ok=True)
    _mount(folder, 0, f"size={megabytes}m".encode())


def remount(folder: Path, *, read_only: bool) -> bool:
    """Make it read-only, or not any more; False while a file is open for writing."""
    try:
        _mount(folder, _REMOUNT | (_READ_ONLY if read_only else 0), None)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def unmount(folder: Path) -> None:
    """Take it off, whoever uses it."""
    _libc.umount2(os.fsencode(folder), _DETACH)


def _mount(folder: Path, flags: int, options: bytes | None) -> None:
    if _libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, options) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(folder))


def fill(file: Path) -> None:
    """Write until the disk is full, to its last page."""
    with file.open("wb", buffering=0) as filler:
        for size in (1 << 20, 4096):
            try:
                while filler.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
