"""Landlock by its system calls: which files, ports and processes this process may reach.

Binds the calling thread and all that it starts from then on, for good: for a process that has one
thread only. Needs ABI 6 (Linux 6.12): older ones let signals out.
"""

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

NEEDED_ABI = 6

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # on every architecture
_VERSION_FLAG = 1
_PATH_BENEATH = 1

_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
_MAKE_FIFO, _MAKE_SYM, _REFER, _TRUNCATE = 1 << 10, 1 << 12, 1 << 13, 1 << 14
_ALL_FILES = (1 << 16) - 1
_ALL_NET = 0b11  # binding and connecting TCP
_ALL_SCOPES = 0b11  # abstract sockets, signals

_READ = _READ_FILE | _READ_DIR
_DEVICE = _READ_FILE | _WRITE_FILE
_WRITE = (
    _READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_FIFO
    | _MAKE_SYM | _REFER | _TRUNCATE
)  # fmt: skip
_OF_FILES = _READ_FILE | _WRITE_FILE | _TRUNCATE


def abi() -> int:
    """The version of Landlock that this kernel has; 0: none, or switched off."""
    found: int = _libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION_FLAG)
    return max(found, 0)


def restrict(
    readable: Iterable[Path], writable: Iterable[Path], devices: Iterable[Path], *, net: bool
) -> None:
    """Leave this thread these folders and files, and with `net` TCP; nothing may be executed.

    Paths that do not exist are left out. `no_new_privs` has to be set. Raises `OSError`.
    """
    attributes = struct.pack("QQQ", _ALL_FILES, 0 if net else _ALL_NET, _ALL_SCOPES)
    ruleset = _checked(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    try:
        for paths, rights in ((readable, _READ), (writable, _WRITE), (devices, _DEVICE)):
            for path in paths:
                _allow(ruleset, path, rights)
        _checked(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(opened).st_mode):
            rights &= _OF_FILES
        _checked(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, opened), 0)
    finally:
        os.close(opened)


def _checked(number: int, *arguments: object) -> int:
    result: int = _libc().syscall(number, *arguments)
    if result < 0:
        code = ctypes.get_errno() or errno.EINVAL
        raise OSError(code, f"Landlock: {os.strerror(code)}")
    return result


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
