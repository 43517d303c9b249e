"""Reads `.mar` files: zip archives, taken from `zipfile` only after our own checks.

`zipfile` lists the entries and inflates them. What it does not do (in Python 3.11.7) is done here:
refuse data before the archive, overlapping entries, links, encryption, and sizes that lie.
"""

import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, LargeZipFile, ZipFile, ZipInfo

from flambeau.archive.entries import CHUNK_BYTES, Limits, Member
from flambeau.archive.names import entry_parts, shown
from flambeau.errors import ArchiveError

_LOCAL_HEADER = struct.Struct("<4s22sHH")
_LOCAL_SIGNATURE = b"PK\x03\x04"
_EMPTY_SIGNATURE = b"PK\x05\x06"
_ENCRYPTED = 0x1 | 0x40 | 0x2000  # plain, strong, and hidden headers
# The list of entries is read in one piece; a record takes 46 bytes and a name.
_LISTED_BYTES_PER_ENTRY = 512
_END_RECORD_BYTES = 64 * 1024 + 22


def read_zip(file: BinaryIO, limits: Limits) -> Iterator[Member]:
    """Yield the members of a zip archive in the order of their data.

    Raises `ArchiveError` for whatever is broken, hostile or cut short, at the latest when the
    member's chunks are read. Limits on names and totals are the caller's to check.
    """
    _check_signature(file)
    bound = _END_RECORD_BYTES + max(CHUNK_BYTES, limits.entries * _LISTED_BYTES_PER_ENTRY)
    with as_archive_error():
        archive = ZipFile(_BoundedReads(file, bound))
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    if len(entries) > limits.entries:
        raise ArchiveError(f"it has more than {limits.entries} entries")
    with as_archive_error():
        _check_layout(file, entries, archive.start_dir)
    for entry in entries:
        yield _member(archive, entry)


class _BoundedReads:
    """A file for `zipfile` that refuses to read more than a bound at a time."""

    def __init__(self, file: BinaryIO, bound: int) -> None:
        self._file = file
        self._bound = bound
        self.seek = file.seek
        self.tell = file.tell
        self.seekable = file.seekable

    def read(self, size: int = -1) -> bytes:
        if size > self._bound:
            raise ArchiveError("its list of entries is too large")
        data = self._file.read(size if size >= 0 else self._bound + 1)
        if len(data) > self._bound:
            raise ArchiveError("its list of entries is too large")
        return data


@contextmanager
def as_archive_error() -> Iterator[None]:
    """Turn everything that `zipfile` is known to raise on damaged input into `ArchiveError`."""
    try:
        yield
    except (
        BadZipFile,
        LargeZipFile,
        zlib.error,
        struct.error,
        EOFError,
        OSError,
        RuntimeError,  # NotImplementedError as well
        ValueError,  # UnicodeDecodeError as well
        LookupError,
        OverflowError,
        AttributeError,
        TypeError,
        AssertionError,
    ) as error:
        raise ArchiveError(f"the zip archive is damaged or incomplete: {error}") from error


def _check_signature(file: BinaryIO) -> None:
    file.seek(0)
    start = file.read(16)
    file.seek(0)
    if start.startswith((_LOCAL_SIGNATURE, _EMPTY_SIGNATURE)):
        return
    if not start:
        raise ArchiveError("it is not a zip archive: it has 0 bytes")
    reason = f"it is not a zip archive: it begins with {start!r}"
    if start.startswith(b"\x1f\x8b"):
        reason += " (gzip data; a tar.gz archive must be named '….tar.gz')"
    if start.startswith(b"version https://"):
        reason += " (a Git LFS pointer; run 'git lfs pull')"
    raise ArchiveError(reason)


def _check_layout(file: BinaryIO, entries: list[ZipInfo], end: int) -> None:
    """Refuse entries that share bytes, lie outside, or do not begin at the file's begin.

    An archive that begins later may be the inner one of an outer archive that is still being
    copied. Raises `ArchiveError` or what reading raises.
    """
    position = 0
    for index, entry in enumerate(entries):
        name = shown(entry.orig_filename)
        if index == 0 and entry.header_offset != 0:
            raise ArchiveError("there is data before the zip archive; is it still being copied?")
        if entry.header_offset < position:
            raise ArchiveError(f"the entry {name} overlaps another entry")
        file.seek(entry.header_offset)
        header = file.read(_LOCAL_HEADER.size)
        signature, _, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
        if signature != _LOCAL_SIGNATURE:
            raise ArchiveError(f"the entry {name} has no header where the list says")
        lead = _LOCAL_HEADER.size + name_bytes + extra_bytes
        position = entry.header_offset + lead + entry.compress_size
        if position > end:
            raise ArchiveError(f"the entry {name} overlaps the list of entries")


def _member(archive: ZipFile, entry: ZipInfo) -> Member:
    # orig_filename: zipfile cuts `filename` at a NUL.
    name = entry.orig_filename
    is_folder = name.endswith("/")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in {0, stat.S_IFDIR if is_folder else stat.S_IFREG}:
        raise ArchiveError(f"the entry {shown(name)} is neither a regular file nor a folder")
    if entry.flag_bits & _ENCRYPTED:
        raise ArchiveError(f"the entry {shown(name)} is encrypted")
    if entry.compress_type not in {ZIP_STORED, ZIP_DEFLATED}:
        raise ArchiveError(
            f"the entry {shown(name)} uses compression method {entry.compress_type}; "
            "only 'stored' and 'deflate' are read"
        )
    if is_folder and entry.file_size:
        raise ArchiveError(f"the entry {shown(name)} is a folder with content")
    parts = entry_parts(name)
    if not parts and not is_folder:
        raise ArchiveError(f"the entry {shown(name)} has no file name")
    chunks = iter(()) if is_folder else _chunks(archive, entry)
    return Member(parts=parts, is_folder=is_folder, chunks=chunks)


def _chunks(archive: ZipFile, entry: ZipInfo) -> Iterator[bytes]:
    total = 0
    with as_archive_error(), archive.open(entry) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            total += len(chunk)
            yield chunk
    # zipfile checks the CRC of what it read, and reads no more than the size that is recorded.
    if total != entry.file_size:
        raise ArchiveError(f"the entry {shown(entry.filename)} is shorter than its recorded size")
