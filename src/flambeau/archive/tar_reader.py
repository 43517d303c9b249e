"""Reads `.tar.gz` archives of models, without `tarfile`.

The reader knows regular files, folders and the two ways to spell long names (pax and GNU), and
refuses everything else. `tarfile` of Python 3.11.7 would read headers of any size into memory and
can be made to loop (CVE-2024-6232, CVE-2025-8194), so its listing is not used either.
"""

import gzip
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from flambeau.archive.entries import CHUNK_BYTES, Limits, Member
from flambeau.archive.names import entry_parts, shown
from flambeau.errors import ArchiveError

_BLOCK = 512
_MAX_EXTENSION_BYTES = 64 * 1024
_REGULAR = b"\x000 7"
_FOLDER = b"5"
_PAX, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK = b"x", b"g", b"L", b"K"
_REFUSED = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a FIFO",
    b"S": "a sparse file",
}


def read_tar_gz(file: BinaryIO, limits: Limits, archive_bytes: int) -> Iterator[Member]:
    """Yield the members of a tar.gz archive, without the first part of their names.

    Raises `ArchiveError` for whatever is broken, hostile or cut short, at the latest when the next
    member is asked for.
    """
    stream = _Inflated(file, limits, archive_bytes)
    extension = _Extension()
    blocks = 0
    while (header := _next_header(stream)) is not None:
        blocks += 1
        if blocks > 3 * limits.entries:  # a file may need a pax and a GNU header besides its own
            raise ArchiveError(f"it has more than {limits.entries} entries")
        if header.kind in {_PAX, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK}:
            extension = _read_extension(stream, header, extension)
            continue
        name = header.name if extension.name is None else extension.name
        size = header.size if extension.size is None else extension.size
        extension = _Extension()
        member = _member(stream, name, header.kind, size)
        yield member
        for _ in member.chunks:  # what the caller left
            pass
        stream.take(-size % _BLOCK)
    stream.finish()


class _Header(msgspec.Struct, frozen=True):
    """The fields of a header block that matter."""

    name: str
    kind: bytes
    size: int


class _Extension(msgspec.Struct, frozen=True):
    """What extension headers say about the member that follows them."""

    name: str | None = None
    size: int | None = None


class _Inflated:
    """The bytes inside the gzip file, counted."""

    def __init__(self, file: BinaryIO, limits: Limits, archive_bytes: int) -> None:
        file.seek(0)
        start = file.read(2)
        file.seek(0)
        if start != b"\x1f\x8b":
            raise ArchiveError(f"it is not a gzip file: it begins with {start!r}")
        self._file = gzip.GzipFile(fileobj=file, mode="rb")
        # Headers and padding come on top of the members' content.
        overhead = 2 * limits.entries * 2 * _BLOCK
        self._left = limits.unpacked_bytes(archive_bytes) + overhead

    def take(self, size: int) -> bytes:
        """Return `size` bytes; fewer only at the end."""
        try:
            data = self._file.read(size)
        except (OSError, EOFError, zlib.error, ValueError) as error:
            raise ArchiveError(f"the gzip data is damaged or incomplete: {error}") from error
        self._left -= len(data)
        if self._left < 0:
            raise ArchiveError("it unpacks to more than is allowed for its size")
        return data

    def chunks(self, size: int) -> Iterator[bytes]:
        """Yield the next `size` bytes in pieces."""
        while size:
            chunk = self.take(min(size, CHUNK_BYTES))
            if not chunk:
                raise ArchiveError("the tar archive is cut short")
            size -= len(chunk)
            yield chunk

    def finish(self) -> None:
        """Read what is left, so that gzip's checksum is verified."""
        while self.take(CHUNK_BYTES):
            pass


def _next_header(stream: _Inflated) -> _Header | None:
    block = stream.take(_BLOCK)
    if not block or not any(block):
        return None
    if len(block) < _BLOCK:
        raise ArchiveError("the tar archive is cut short")
    checksum = sum(block[:148]) + 8 * ord(" ") + sum(block[156:])
    stated = block[148:156].strip(b" \x00")
    if stated.lstrip(b"0") != b"%o" % checksum:
        raise ArchiveError("it is not a tar archive, or a header of it is damaged")
    name = _text(block[:100])
    if block[257:263] == b"ustar\x00" and (prefix := _text(block[345:500])):
        name = f"{prefix}/{name}"
    return _Header(name=name, kind=block[156:157], size=_number(block[124:136]))


def _read_extension(stream: _Inflated, header: _Header, extension: _Extension) -> _Extension:
    if header.size > _MAX_EXTENSION_BYTES:
        raise ArchiveError(f"a tar header has more than {_MAX_EXTENSION_BYTES} bytes")
    body = b"".join(stream.chunks(header.size))
    stream.take(-header.size % _BLOCK)
    if header.kind == _GNU_LINK:
        return extension
    if header.kind == _GNU_NAME:
        return _Extension(name=_text(body), size=extension.size)
    records = _pax_records(body)
    if any(key.startswith(b"GNU.sparse.") for key in records):
        raise ArchiveError("it has a sparse file; pack without --sparse")
    if header.kind == _PAX_GLOBAL:
        if b"path" in records or b"size" in records:
            raise ArchiveError("a global tar header names files")
        return extension
    name, size = records.get(b"path"), records.get(b"size")
    return _Extension(
        name=extension.name if name is None else _decoded(name),
        size=extension.size if size is None else _digits(size, 10),
    )


def _pax_records(body: bytes) -> dict[bytes, bytes]:
    """Split `length key=value\\n` records; the length counts itself."""
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(body):
        digits, space, _ = body[position : position + 21].partition(b" ")
        length = _digits(digits, 10)
        record = body[position : position + length]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if not space or not equals or not record.endswith(b"\n") or len(record) != length:
            raise ArchiveError("a pax header is damaged")
        records[key] = value
        position += length
    return records


def _member(stream: _Inflated, name: str, kind: bytes, size: int) -> Member:
    is_folder = kind == _FOLDER or (kind == b"\x00" and name.endswith("/"))
    if not is_folder and kind not in _REGULAR:
        what = _REFUSED.get(kind, f"of type {kind!r}")
        raise ArchiveError(f"the entry {shown(name)} is {what}; only files and folders are read")
    parts = entry_parts(name, drop_first=True)
    if not parts and not is_folder:
        raise ArchiveError(f"the entry {shown(name)} has no file name")
    return Member(parts=parts, is_folder=is_folder, chunks=stream.chunks(size))


def _number(field: bytes) -> int:
    """Read a numeric header field: octal digits, or base 256 if the first bit is set."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    return _digits(field.partition(b"\x00")[0].strip() or b"0", 8)


def _digits(text: bytes, base: int) -> int:
    # int() would accept signs, blanks and underscores.
    if not text.isdigit() or len(text) > 20:
        raise ArchiveError(f"a tar header has the bad number {text[:20]!r}")
    try:
        return int(text, base)
    except ValueError as error:
        raise ArchiveError(f"a tar header has the bad number {text!r}") from error


def _text(field: bytes) -> str:
    return _decoded(field.partition(b"\x00")[0])


def _decoded(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise ArchiveError(f"the entry name {text[:80]!r} is not UTF-8") from error
