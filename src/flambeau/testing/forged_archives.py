"""Archives made byte by byte, so that each field is free to lie."""

import gzip
import io
import stat
import struct
import tarfile
import zlib

import msgspec


class Entry(msgspec.Struct, kw_only=True):
    """A zip entry, each field free to lie. None: the true value."""

    name: bytes
    data: bytes = b"data"
    local_name: bytes | None = None
    method: int = 8
    flags: int = 0
    mode: int = stat.S_IFREG | 0o644
    size: int | None = None
    packed_size: int | None = None
    crc: int | None = None
    at: int | None = None


def deflated(data: bytes) -> bytes:
    """Compress as zip entries are."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def zip_of(*entries: Entry, lead: bytes = b"", listed: int | None = None) -> bytes:
    """Build a zip archive byte by byte."""
    body = io.BytesIO()
    body.write(lead)
    records = b""
    for entry in entries:
        packed = deflated(entry.data) if entry.method == 8 else entry.data
        crc = zlib.crc32(entry.data) if entry.crc is None else entry.crc
        size = len(entry.data) if entry.size is None else entry.size
        packed_size = len(packed) if entry.packed_size is None else entry.packed_size
        name = entry.name if entry.local_name is None else entry.local_name
        offset = body.tell() - len(lead) if entry.at is None else entry.at
        fields = (entry.flags, entry.method, 0, 33, crc, packed_size, size)
        if entry.at is None:
            body.write(struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 20, *fields, len(name), 0))
            body.write(name + packed)
        records += struct.pack("<4sBBHHHHHIII", b"PK\1\2", 20, 3, 20, *fields)
        records += struct.pack("<HHHHHII", len(entry.name), 0, 0, 0, 0, entry.mode << 16, offset)
        records += entry.name
    start = body.tell() - len(lead)
    count = len(entries) if listed is None else listed
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, len(records), start, 0)
    return body.getvalue() + records + end


def tar_of(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """Build a tar.gz with members exactly as given."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=form) as archive:
        for member, data in members:
            archive.addfile(member, io.BytesIO(data))
    return gzip.compress(raw.getvalue(), 9)


def file_member(name: str, data: bytes = b"data") -> tuple[tarfile.TarInfo, bytes]:
    """Return a regular tar member."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    return member, data


def special_member(name: str, kind: bytes, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    """Return a tar member of a type that is not a regular file."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member, b""


def raw_tar(name: bytes, size: bytes, kind: bytes = b"0", data: bytes = b"") -> bytes:
    """Build a tar.gz of one header whose size field is `size`, whatever follows."""
    fields = [name.ljust(100, b"\0"), b"0000644\0", b"0000000\0" * 2, size.rjust(11, b"0") + b"\0"]
    header = b"".join(fields) + b"00000000000\0" + b" " * 8 + kind + b"\0" * 100
    header += b"ustar\x0000"
    header = header.ljust(512, b"\0")
    header = header[:148] + f"{sum(header):06o}\0 ".encode() + header[156:]
    return gzip.compress(header + data)
