"""Unpacks archives into a fresh folder, or not at all (promises.md R5, G28).

Rules, for every archive from everywhere:

- Only regular files and folders are made, with fixed permissions, below one folder.
- Every name is checked before it is used, and opened relative to its parent's descriptor without
  following links.
- Every limit counts bytes that arrived; sizes that an archive states are never trusted.
- The target appears when everything is on the disk. After an error nothing is left.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

import msgspec

from flambeau.archive.entries import EntryTable, Limits, Member
from flambeau.archive.names import shown
from flambeau.archive.staging import staged_folder
from flambeau.archive.tar_reader import read_tar_gz
from flambeau.archive.zip_reader import read_zip
from flambeau.errors import STORAGE_ERRNOS, ArchiveError, ErrorKind, StorageError

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_GZIP_SUFFIXES = (".tar.gz", ".tgz")


class UnpackedFile(msgspec.Struct, frozen=True):
    """A file that was written: its path below the folder, with `/`, and its size in bytes."""

    name: str
    size: int


def unpack(archive: Path, target: Path, limits: Limits | None = None) -> tuple[UnpackedFile, ...]:
    """Unpack `archive` into `target`, a folder that must not exist; its parent must.

    `.mar` files are zip archives, `.tar.gz` and `.tgz` are what they say, and other names are
    judged by their first bytes (contract.md section 1.6). Of a tar.gz member's name the first
    part is dropped. Raises `ArchiveError`, whose message names the archive and the reason.
    """
    if target.exists():
        raise ArchiveError(f"{target} exists already; archives are unpacked into new folders only")
    with open_archive(archive) as file:
        try:
            with staged_folder(target) as stage:
                return extract(file, archive.name, stage, limits or Limits())
        except ArchiveError as error:
            raise ArchiveError(f"{archive.name}: {error.message}", error.kind) from error
        except OSError as error:
            raise StorageError(f"{archive.name} cannot be unpacked into {target}", error) from error


@contextmanager
def open_archive(archive: Path) -> Iterator[BufferedReader]:
    """Open an archive file for reading; it must be a regular file.

    Raises `ArchiveError` of kind `MODEL_NOT_FOUND` if there is none, and `StorageError`.
    """
    try:
        if not archive.is_file():  # before open(), which would wait for a FIFO's other end
            raise ArchiveError(f"Model not found at: {archive}", ErrorKind.MODEL_NOT_FOUND)
        file = archive.open("rb")
    except OSError as error:
        if error.errno in STORAGE_ERRNOS:
            raise StorageError(f"{archive} cannot be read", error) from error
        raise ArchiveError(f"{archive} cannot be read: {error.strerror or error}") from error
    with file:
        yield file


def extract(file: BinaryIO, name: str, folder: Path, limits: Limits) -> tuple[UnpackedFile, ...]:
    """Write the members of the open archive `file`, which is called `name`, below `folder`.

    `folder` must be empty and nobody else's; after an error it holds a part of the archive. Raises
    `ArchiveError` with the reason only, not the archive's name, and `OSError` about `folder`.
    """
    archive_bytes = os.fstat(file.fileno()).st_size
    root = os.open(folder, _FOLDER_FLAGS)
    try:
        if _is_tar_gz(file, name):
            members = read_tar_gz(file, limits, archive_bytes)
        else:
            members = read_zip(file, limits)
        files = tuple(_write(members, root, limits, archive_bytes))
        if not files:
            raise ArchiveError("it holds no files")
    finally:
        os.close(root)
    return files


def _is_tar_gz(file: BinaryIO, name: str) -> bool:
    if name.endswith(".mar"):
        return False
    return name.endswith(_GZIP_SUFFIXES) or file.read(2) == b"\x1f\x8b"


def _write(
    members: Iterator[Member], root: int, limits: Limits, archive_bytes: int
) -> Iterator[UnpackedFile]:
    table = EntryTable(limits)
    left = limits.unpacked_bytes(archive_bytes)
    for member in members:
        if not member.parts:
            continue  # the root itself
        table.add(member.parts, is_folder=member.is_folder)
        if member.is_folder:
            os.close(_open_folder(root, member.parts))
            continue
        size = _write_file(root, member, left)
        left -= size
        yield UnpackedFile(name="/".join(member.parts), size=size)


def _write_file(root: int, member: Member, allowed: int) -> int:
    """Write one file and return its size, which may be `allowed` bytes at most."""
    size = 0
    folder = _open_folder(root, member.parts[:-1])
    try:
        descriptor = os.open(member.parts[-1], _FILE_FLAGS, 0o644, dir_fd=folder)
    finally:
        os.close(folder)
    with os.fdopen(descriptor, "wb") as output:
        for chunk in member.chunks:
            size += len(chunk)
            if size > allowed:
                raise ArchiveError(
                    f"it unpacks to more than is allowed for its size, at the entry "
                    f"{shown('/'.join(member.parts))}"
                )
            output.write(chunk)
    return size


def _open_folder(root: int, parts: tuple[str, ...]) -> int:
    """Return a descriptor of the folder `parts` below `root`, made if missing. The caller closes it."""
    folder = os.dup(root)
    for part in parts:
        try:
            inner = _make_and_open(folder, part)
        finally:
            os.close(folder)
        folder = inner
    return folder


def _make_and_open(folder: int, name: str) -> int:
    with suppress(FileExistsError):  # opening it shows whether it is a folder
        os.mkdir(name, 0o755, dir_fd=folder)
    return os.open(name, _FOLDER_FLAGS, dir_fd=folder)
