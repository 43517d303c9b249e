"""A generator of hostile archives: each way to harm whoever unpacks one, with numbers that a seed decides.

Whatever escapes must land where the suite looks: links lead into `victim`, and `..` is repeated less
often than the suite's folder is deep.
"""

import functools
import gzip
import json
import random
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from flambeau.testing.forged_archives import (
    Entry,
    file_member,
    raw_tar,
    special_member,
    tar_of,
    zip_of,
)

MOST_UP = 8
"""Most folders that a name climbs."""
BOMB_BYTES = 1 << 23
"""What a bomb unpacks to; the suite's cap is far below."""


class Forged(msgspec.Struct, frozen=True):
    """One archive: its file name, its bytes, and whether it may never be let in. None: nobody knows."""

    kind: str
    name: str
    data: bytes
    hostile: bool | None = True


Make = Callable[[random.Random, Path], bytes]


def forged(random_: random.Random, victim: Path, count: int) -> Iterator[Forged]:
    """Yield `count` archives, every kind in turn, in an order that the seed decides."""
    kinds = list(_KINDS)
    for index in range(count):
        if index % len(kinds) == 0:
            random_.shuffle(kinds)
        name, suffix, make = kinds[index % len(kinds)]
        data = make(random_, victim)
        yield Forged(name, f"m{index}{suffix}", data, None if name.startswith("noise") else True)


def good_mar(handler: bytes = b"def handle(data, context):\n    return data\n") -> bytes:
    """A harmless archive."""
    return zip_of(
        _manifest(), Entry(name=b"h.py", data=handler), Entry(name=b"w.bin", data=b"w" * 99)
    )


def _manifest(**model: object) -> Entry:
    named = {"modelName": "m", "modelVersion": "1.0", "handler": "h.py:handle"} | model
    return Entry(name=b"MAR-INF/MANIFEST.json", data=json.dumps({"model": named}).encode())


def _around(random_: random.Random, *evil: Entry) -> bytes:
    """A zip whose evil entries come somewhere between good ones."""
    entries = [Entry(name=b"h.py"), *(Entry(name=b"f%d" % i) for i in range(random_.randint(0, 3)))]
    for each in evil:
        entries.insert(random_.randint(0, len(entries)), each)
    return zip_of(_manifest(), *entries)


def _up(random_: random.Random, victim: Path) -> str:
    """A name that leaves the folder."""
    climb = "../" * random_.randint(1, MOST_UP)
    return random_.choice((
        f"{climb}evil{random_.randrange(99)}", f"a/{climb}evil", f"./a/./{climb}{victim.name}/evil",
        f"{victim}/evil", f"/{victim}/evil", f"//{victim}/evil", f"a//{climb}evil", f"{climb}model-x/evil",
        f"..\\..\\{victim.name}\\evil", f"C:{victim}/evil", f"\\\\host\\{victim.name}\\evil",
        "..", "a/..", f"{climb}".rstrip("/"), "a/../../b/../../evil",
    ))  # fmt: skip


def _path(random_: random.Random, victim: Path) -> bytes:
    name = _up(random_, victim).encode()
    return _around(random_, Entry(name=name, data=random_.randbytes(random_.randint(0, 99))))


def _odd_name(random_: random.Random, _victim: Path) -> bytes:
    name = random_.choice((
        b"a\x00.py", b"a\nb", b"a\rb", b"\x1b[31m", b"a\x7f", b"", b".", b"a/./", b"n" * 256,
        b"n" * 65_000, b"/".join([b"d"] * 30), b"x/" * 200 + b"y", "\u00e9".encode() * 128,
        b"con\x00", b"\\\\?\\x", b"a\\b", b"c:x",
    ))  # fmt: skip
    flags = random_.choice((0, 0x800))
    return _around(random_, Entry(name=name, flags=flags))


def _special(random_: random.Random, victim: Path) -> bytes:
    kind = random_.choice(
        (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK, stat.S_IFDIR)
    )
    link = Entry(name=b"link", data=str(victim).encode(), mode=kind | 0o7777)
    return _around(random_, link, Entry(name=b"link/evil"))


def _double(random_: random.Random, _victim: Path) -> bytes:
    one, other = random_.choice((
        ("a", "a"), ("A", "a"), ("a/b", "a/./b"), ("a/B", "A/b"), ("\u00e9", "e\u0301"), ("a", "a/b"),
        ("stra\u00dfe", "strasse"), ("\ufb01", "\ufb01"), ("h.py", "H.PY"), ("\u212aelvin", "kelvin"),
        ("a/b/c", "a/b"), ("MAR-INF/MANIFEST.json", "mar-inf/manifest.json"),
    ))  # fmt: skip
    entries = [Entry(name=each.encode(), flags=0x800) for each in (one, other)]
    random_.shuffle(entries)
    return zip_of(_manifest(), *entries)


def _overlap(random_: random.Random, _victim: Path) -> bytes:
    big = Entry(name=b"big", data=random_.randbytes(200), method=0)
    at = random_.choice((0, 0, random_.randint(1, 60), 2**31, 2**32 - 1))
    return zip_of(big, Entry(name=b"h.py"), *[Entry(name=b"o%d" % i, at=at) for i in range(3)])


def _lie(random_: random.Random, _victim: Path) -> bytes:
    field = random_.choice(("size", "packed_size", "crc", "flags", "method", "local_name", "both"))
    entry = Entry(name=b"lie", data=random_.randbytes(random_.randint(50, 400)), method=8)
    number = random_.choice((0, 1, len(entry.data) - 1, len(entry.data) + 1, 2**31, 2**32 - 1))
    match field:
        case "flags":
            entry = _with(entry, flags=random_.choice((0x1, 0x20, 0x40, 0x2000)))
        case "method":
            entry = _with(entry, method=random_.choice((1, 6, 9, 12, 14, 93, 95, 97, 98, 99)))
        case "local_name":
            entry = _with(entry, local_name=b"liE")
        case "both":
            entry = _with(entry, size=number, packed_size=number)
        case _:
            entry = _with(entry, **{field: number})
    return zip_of(_manifest(), Entry(name=b"h.py"), entry)


def _with(entry: Entry, **changes: object) -> Entry:
    return msgspec.structs.replace(entry, **changes)


def _bomb(random_: random.Random, _victim: Path) -> bytes:
    return random_.choice(_bombs())


@functools.cache
def _bombs() -> tuple[bytes, ...]:
    """One file, many files, a size that says 10 bytes, and one that says 4 GiB."""
    zeros = bytes(BOMB_BYTES)
    part = Entry(name=b"", data=zeros[: BOMB_BYTES // 16])
    return (
        zip_of(_manifest(), Entry(name=b"z", data=zeros)),
        zip_of(_manifest(), *(_with(part, name=b"z%d" % i) for i in range(16))),
        zip_of(Entry(name=b"z", data=zeros, size=10, crc=zlib.crc32(zeros[:10]) ^ 1)),
        zip_of(_manifest(), Entry(name=b"z", data=zeros, size=2**32 - 1)),
    )


def _crowd(random_: random.Random, _victim: Path) -> bytes:
    count = random_.randint(201, 400)
    name = random_.choice(("e{}", "d{}/e", "e{}/"))
    return zip_of(*(Entry(name=name.format(i).encode(), data=b"", method=0) for i in range(count)))


def _end(random_: random.Random, _victim: Path) -> bytes:
    """Something wrong with the archive as a whole."""
    whole = good_mar()
    return random_.choice((
        whole[: random_.randrange(1, len(whole) - 1)], b"#!/bin/sh\n" + whole,
        good_mar() + b"\0" * 70_000, b"PK\5\6" + bytes(18), b"PK\3\4", b"", b"PK\5\6\xff\xff",
        zip_of(Entry(name=b"../x"), listed=0), b"version https://git-lfs.github.com/spec/v1\n",
        gzip.compress(whole), random_.randbytes(300), bytes(1 << 20),
        whole.replace(b"PK\1\2", b"PK\1\3", 1), b"PK\3\4" + random_.randbytes(2000),
    ))  # fmt: skip


def _refers(random_: random.Random, victim: Path) -> bytes:
    """A manifest that names what is not of the archive."""
    name = random_.choice((
        f"../{victim.name}/secret", f"{victim}/secret", "absent.bin", "sub/../h.py", "..", ".",
        "w.bin/", "a\\b", "x" * 5000, "w\x00.bin", "../" * 5 + "etc/passwd", "./w.bin",
    ))  # fmt: skip
    key = random_.choice(
        ("serializedFile", "modelFile", "requirementsFile", "configFile", "sourceVocab", "handler")
    )
    if key == "handler":
        name = random_.choice(("../h.py", "/tmp/h.py:f", "a/b", "absent.py:f", "..", "a\\b.py"))
    return zip_of(_manifest(**{key: name}), Entry(name=b"h.py"), Entry(name=b"w.bin"))


def _unreadable(random_: random.Random, _victim: Path) -> bytes:
    text = random_.choice((
        b"[" * 50_000, b'{"a":' * 20_000, b"[]", b"null", b"\xff\xfe", b"{", b'{"model": 1}', b"{}",
        b'{"model": {"modelName": {}}}', b" " * (1 << 21), b'{"model": {"modelName": "m"}} x',
        b'{"model": {"handler": ["h.py"]}}', b'{"model": {}, "runtime": "rm -rf"}', b"NaN",
    ))  # fmt: skip
    entry = Entry(name=b"MAR-INF/MANIFEST.json", data=text)
    return zip_of(entry, Entry(name=b"h.py"))


def _tar_path(random_: random.Random, victim: Path) -> bytes:
    name = random_.choice(("m/", "", "./", "../")) + _up(random_, victim)
    if not any(part in name for part in ("..", "\\", ":")) and not name.startswith("/"):
        name = f"m/../../{victim.name}/evil"
    forms = (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)
    return tar_of(*_tar_good(), file_member(name), form=random_.choice(forms))


def _tar_good() -> list[tuple[tarfile.TarInfo, bytes]]:
    return [file_member("m/MAR-INF/MANIFEST.json", _manifest().data), file_member("m/h.py")]


def _tar_special(random_: random.Random, victim: Path) -> bytes:
    kind = random_.choice((
        tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE,
        tarfile.GNUTYPE_SPARSE, b"Z",
    ))  # fmt: skip
    target = random_.choice((str(victim), f"../{victim.name}", "..", str(victim / "secret")))
    link = special_member("m/link", kind, target)
    return tar_of(*_tar_good(), link, file_member("m/link/evil"), file_member("m/link"))


def _tar_double(random_: random.Random, _victim: Path) -> bytes:
    one, other = random_.choice((
        ("m/a", "m/a"), ("m/a", "n/a"), ("m/A", "m/a"), ("m/a", "m/a/b"), ("m/h.py", "x/h.py"),
        ("m/\u00e9", "m/e\u0301"),
    ))  # fmt: skip
    return tar_of(*_tar_good(), file_member(one), file_member(other))


def _tar_lie(random_: random.Random, _victim: Path) -> bytes:
    size, kind, data = random_.choice((
        (b"7777", b"0", b""), (b"77777777777", b"0", b""), (b"-7", b"0", b""), (b"9x", b"0", b""),
        (b"\xff" * 11, b"0", b""), (b"77777777777", b"x", b""), (b"77777777777", b"L", b""),
        (b"10", b"x", b"99 path=".ljust(512, b"\0")), (b"10", b"x", b"0 path=".ljust(512, b"\0")),
        (b"12", b"g", b"10 path=x\n".ljust(512, b"\0")), (b"10", b"x", b"-1 path=".ljust(512, b"\0")),
        (b"30", b"x", b"24 GNU.sparse.major=1.0\n".ljust(512, b"\0")),
        (b"20", b"x", b"16 size=99999999".ljust(512, b"\0")),
    ))  # fmt: skip
    return raw_tar(b"m/a", size, kind, data)


def _tar_bomb(random_: random.Random, _victim: Path) -> bytes:
    return random_.choice(_tar_bombs())


@functools.cache
def _tar_bombs() -> tuple[bytes, ...]:
    zeros = bytes(BOMB_BYTES)
    return gzip.compress(zeros), tar_of(*_tar_good(), file_member("m/z", zeros))


def _tar_end(random_: random.Random, _victim: Path) -> bytes:
    whole = tar_of(*_tar_good())
    return random_.choice((
        whole[: random_.randrange(1, len(whole) - 1)], whole + b"garbage", good_mar(), b"", b"\x1f\x8b",
        gzip.compress(b"m".ljust(512, b"\1")), gzip.compress(b""), gzip.compress(bytes(1024)),
    ))  # fmt: skip


def _noise_zip(random_: random.Random, victim: Path) -> bytes:
    make = random_.choice((lambda *_: good_mar(), _path, _lie, _double, _special, _refers))
    return _noise(random_, make(random_, victim))


def _noise_tar(random_: random.Random, victim: Path) -> bytes:
    make = random_.choice((lambda *_: tar_of(*_tar_good()), _tar_path, _tar_special))
    return gzip.compress(_noise(random_, gzip.decompress(make(random_, victim))), 1)


def _noise(random_: random.Random, data: bytes) -> bytes:
    """Change, copy or cut some bytes."""
    changed = bytearray(data)
    for _ in range(random_.randint(1, 6)):
        at = random_.randrange(len(changed))
        match random_.randrange(3):
            case 0:
                changed[at] = random_.randrange(256)
            case 1:
                length = random_.randint(1, 40)
                start = random_.randrange(len(changed))
                changed[at : at + length] = changed[start : start + length]
            case _:
                changed[at : at + 4] = random_.choice((b"\xff" * 4, bytes(4), b"\xff\xff\xff\x7f"))
    return bytes(changed)


_KINDS: tuple[tuple[str, str, Make], ...] = (
    ("path", ".mar", _path), ("path again", ".model", _path), ("odd name", ".mar", _odd_name),
    ("special", ".mar", _special), ("double", ".mar", _double), ("overlap", ".mar", _overlap),
    ("lie", ".mar", _lie), ("bomb", ".mar", _bomb), ("crowd", ".mar", _crowd), ("end", ".mar", _end),
    ("refers", ".mar", _refers), ("unreadable", ".mar", _unreadable), ("tar path", ".tar.gz", _tar_path),
    ("tar special", ".tar.gz", _tar_special), ("tar double", ".tar.gz", _tar_double),
    ("tar lie", ".tar.gz", _tar_lie), ("tar bomb", ".tar.gz", _tar_bomb), ("tar end", ".tar.gz", _tar_end),
    ("noise", ".mar", _noise_zip), ("noise tar", ".tar.gz", _noise_tar),
)  # fmt: skip
