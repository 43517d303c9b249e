"""Archives that are broken on purpose or by accident (promises.md R5, G11, G28).

Every case must end in `ArchiveError` with a reason, and leave the folder around it as it was.
"""

import gzip
import random
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flambeau.archive.entries import Limits
from flambeau.archive.unpack import unpack
from flambeau.errors import ArchiveError
from flambeau.testing.forged_archives import (
    Entry,
    deflated,
    file_member,
    raw_tar,
    special_member,
    tar_of,
    zip_of,
)

MANIFEST = b'{"model": {"modelName": "m"}}'
LIMITS = Limits(entries=20, total_bytes=2**20, ratio=20, ratio_floor_bytes=2**16, depth=4)


def good(name: bytes = b"MAR-INF/MANIFEST.json") -> Entry:
    """Return a harmless zip entry."""
    return Entry(name=name, data=MANIFEST)


GOOD_ZIP = zip_of(good(), Entry(name=b"a/b.txt"), Entry(name=b"w.bin", method=0))
GOOD_TAR = tar_of(file_member("m/MAR-INF/MANIFEST.json", MANIFEST), file_member("m/a/b.txt"))

ZIPS: dict[str, tuple[bytes, str]] = {
    "parent": (zip_of(good(), Entry(name=b"../evil")), "leaves the archive"),
    "parent inside": (zip_of(good(), Entry(name=b"a/../../evil")), "leaves the archive"),
    "sibling prefix": (zip_of(good(), Entry(name=b"../target-evil/x")), "leaves the archive"),
    "absolute": (zip_of(good(), Entry(name=b"/tmp/evil")), "is absolute"),
    "drive": (zip_of(good(), Entry(name=b"C:/evil")), "drive letter"),
    "backslash": (zip_of(good(), Entry(name=b"..\\evil")), "backslash"),
    "NUL": (zip_of(good(), Entry(name=b"a.txt\x00.py")), "control character"),
    "newline": (zip_of(good(), Entry(name=b"a\nb")), "control character"),
    "no name": (zip_of(good(), Entry(name=b"")), "no file name"),
    "dot": (zip_of(good(), Entry(name=b".")), "no file name"),
    "bad UTF-8": (zip_of(good(), Entry(name=b"\xff", flags=0x800)), "damaged"),
    "symlink": (zip_of(Entry(name=b"l", data=b"/etc", mode=stat.S_IFLNK)), "neither a regular"),
    "FIFO": (zip_of(Entry(name=b"l", mode=stat.S_IFIFO)), "neither a regular"),
    "device": (zip_of(Entry(name=b"l", mode=stat.S_IFCHR)), "neither a regular"),
    "folder without slash": (zip_of(Entry(name=b"l", mode=stat.S_IFDIR)), "neither a regular"),
    "folder with content": (
        zip_of(Entry(name=b"l/", data=b"x", mode=stat.S_IFDIR)),
        "a folder with content",
    ),
    "twice": (zip_of(good(), Entry(name=b"a"), Entry(name=b"a")), "there twice"),
    "twice, spelled apart": (zip_of(Entry(name=b"a/b"), Entry(name=b"a/./b")), "there twice"),
    "case": (zip_of(Entry(name=b"Handler.py"), Entry(name=b"handler.py")), "only in case"),
    "case of a folder": (zip_of(Entry(name=b"A/x"), Entry(name=b"a/y")), "only in case"),
    "accents": (
        zip_of(
            Entry(name="\u00e9".encode(), flags=0x800), Entry(name="e\u0301".encode(), flags=0x800)
        ),
        "only in case",
    ),
    "file and folder": (zip_of(Entry(name=b"a"), Entry(name=b"a/b")), "both a file and a folder"),
    "folder and file": (zip_of(Entry(name=b"a/b"), Entry(name=b"a")), "both a file and a folder"),
    "too many": (zip_of(*(Entry(name=b"%d" % i) for i in range(21))), "more than 20 entries"),
    "too deep": (zip_of(Entry(name=b"a/b/c/d/e")), "folders deep"),
    "long name": (zip_of(Entry(name=b"a" * 256)), "more than 255 bytes"),
    "bomb": (zip_of(Entry(name=b"a", data=bytes(2**21))), "more than is allowed"),
    "bomb of many": (
        zip_of(*(Entry(name=b"%d" % i, data=bytes(2**14)) for i in range(10))),
        "more than is allowed",
    ),
    "bomb that says it is small": (
        zip_of(Entry(name=b"a", data=bytes(2**21), size=10, crc=zlib.crc32(bytes(10)) ^ 1)),
        "damaged",
    ),
    "size too small": (zip_of(Entry(name=b"a", size=2)), "damaged"),
    "size too large": (zip_of(Entry(name=b"a", size=99)), "shorter than its recorded"),
    "packed size too large": (zip_of(Entry(name=b"a", packed_size=9999)), "overlaps the list"),
    "packed size too small": (zip_of(Entry(name=b"a", packed_size=1)), "damaged|shorter"),
    "bad CRC": (zip_of(Entry(name=b"a", crc=1)), "Bad CRC"),
    "not deflate data": (
        zip_of(Entry(name=b"a", method=8, size=4)).replace(deflated(b"data"), b"\xff" * 6),
        "damaged",
    ),
    "overlap": (zip_of(Entry(name=b"a"), Entry(name=b"a", at=0)), "overlaps another"),
    "overlap under another name": (zip_of(Entry(name=b"a"), Entry(name=b"b", at=0)), "overlaps"),
    "quoted overlap": (
        zip_of(
            Entry(name=b"b", data=zip_of(Entry(name=b"a"))[:40], method=0), Entry(name=b"a", at=31)
        ),
        "overlaps",
    ),
    "offset outside": (zip_of(good(), Entry(name=b"a", at=2**31)), "damaged|overlaps"),
    "two names": (zip_of(Entry(name=b"a.txt", local_name=b"b.txt")), "differ"),
    "data before": (zip_of(good(), lead=b"#!/bin/sh\n"), "not a zip archive: it begins with"),
    "archive before": (zip_of(good(), lead=GOOD_ZIP), "data before the zip archive"),
    "encrypted": (zip_of(Entry(name=b"a", flags=0x1)), "is encrypted"),
    "strongly encrypted": (zip_of(Entry(name=b"a", flags=0x41)), "is encrypted"),
    "patched": (zip_of(Entry(name=b"a", flags=0x20)), "damaged"),
    "bzip2": (zip_of(Entry(name=b"a", method=12)), "compression method 12"),
    "unknown method": (zip_of(Entry(name=b"a", method=99)), "compression method 99"),
    "count that lies": (zip_of(good(), Entry(name=b"../x"), listed=1), "leaves the archive"),
    "no entries": (zip_of(), "holds no files"),
    "folders only": (zip_of(Entry(name=b"a/", data=b"", mode=stat.S_IFDIR)), "holds no files"),
    "nothing": (b"", "not a zip archive: it has 0 bytes"),
    "text": (b"hello, I am no archive", "not a zip archive: it begins with"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "tar.gz": (GOOD_TAR, "must be named"),
    "signature only": (b"PK\3\4", "damaged or incomplete"),
    "end only, cut": (b"PK\5\6\0\0", "damaged or incomplete"),
}

TARS: dict[str, tuple[bytes, str]] = {
    "parent": (tar_of(file_member("m/../../evil")), "leaves the archive"),
    "parent as first part": (tar_of(file_member("../evil")), "leaves the archive"),
    "absolute": (tar_of(file_member("/m/evil")), "is absolute"),
    "backslash": (tar_of(file_member("m/..\\evil")), "backslash"),
    "symlink": (tar_of(special_member("m/l", tarfile.SYMTYPE, "/etc")), "a symbolic link"),
    "symlink, then through it": (
        tar_of(special_member("m/l", tarfile.SYMTYPE, ".."), file_member("m/l/evil")),
        "a symbolic link",
    ),
    "hard link": (tar_of(special_member("m/l", tarfile.LNKTYPE, "/etc/passwd")), "a hard link"),
    "character device": (tar_of(special_member("m/l", tarfile.CHRTYPE)), "a device"),
    "block device": (tar_of(special_member("m/l", tarfile.BLKTYPE)), "a device"),
    "FIFO": (tar_of(special_member("m/l", tarfile.FIFOTYPE)), "a FIFO"),
    "sparse": (tar_of(special_member("m/l", tarfile.GNUTYPE_SPARSE)), "a sparse file"),
    "unknown type": (tar_of(special_member("m/l", b"Z")), "of type b'Z'"),
    "twice": (tar_of(file_member("m/a"), file_member("m/a")), "there twice"),
    "twice below two folders": (tar_of(file_member("m/a"), file_member("n/a")), "there twice"),
    "case": (tar_of(file_member("m/A"), file_member("m/a")), "only in case"),
    "file and folder": (tar_of(file_member("m/a"), file_member("m/a/b")), "both a file and"),
    "too many": (tar_of(*(file_member(f"m/{i}") for i in range(21))), "more than 20 entries"),
    "too deep": (tar_of(file_member("m/a/b/c/d/e")), "folders deep"),
    "long name": (tar_of(file_member("m/" + "a" * 256)), "more than 255 bytes"),
    "long GNU name": (
        tar_of(file_member("m/" + "a" * 256), form=tarfile.GNU_FORMAT),
        "more than 255 bytes",
    ),
    "huge GNU name": (
        tar_of(file_member("m/" + "a" * 2**17), form=tarfile.GNU_FORMAT),
        "a tar header has more than",
    ),
    "bomb": (tar_of(file_member("m/a", bytes(2**21))), "more than is allowed"),
    "size beyond the end": (raw_tar(b"m/a", b"7777"), "cut short"),
    "huge size": (raw_tar(b"m/a", b"77777777777"), "cut short"),
    "negative size": (raw_tar(b"m/a", b"-7"), "bad number"),
    "base-256 negative size": (raw_tar(b"m/a", b"\xff" * 11), "bad number"),
    "size in words": (raw_tar(b"m/a", b"9x"), "bad number"),
    "huge header": (raw_tar(b"m/a", b"77777777777", b"x"), "a tar header has more than"),
    "pax without end": (raw_tar(b"m/a", b"10", b"x", b"99 path=".ljust(512, b"\0")), "pax header"),
    "pax of length 0": (raw_tar(b"m/a", b"10", b"x", b"0 path=".ljust(512, b"\0")), "pax header"),
    "pax sparse": (
        raw_tar(b"m/a", b"30", b"x", b"24 GNU.sparse.major=1.0\n".ljust(512, b"\0")),
        "sparse",
    ),
    "global name": (raw_tar(b"m/a", b"12", b"g", b"10 path=x\n".ljust(512, b"\0")), "global"),
    "name of bytes": (raw_tar(b"m/\xff", b"0"), "not UTF-8"),
    "bad checksum": (gzip.compress(b"m/a".ljust(512, b"\1")), "not a tar archive"),
    "no members": (gzip.compress(bytes(1024)), "holds no files"),
    "empty gzip": (gzip.compress(b""), "holds no files"),
    "bomb after the end": (gzip.compress(bytes(2**26)), "more than is allowed"),
    "nothing": (b"", "not a gzip file"),
    "text": (b"hello", "not a gzip file"),
    "zip": (GOOD_ZIP, "not a gzip file"),
    "garbage behind": (GOOD_TAR + b"garbage", "gzip data is damaged"),
}


@contextmanager
def untouched(folder: Path) -> Iterator[None]:
    """Check that what lies in `folder` is the same before and after."""
    before = sorted(folder.rglob("*"))
    yield
    assert sorted(folder.rglob("*")) == before


def refuse(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    """Unpack `data` and check the error, its text and that nothing appeared anywhere."""
    archive = tmp_path / "in" / name
    archive.parent.mkdir()
    archive.write_bytes(data)
    (tmp_path / "out").mkdir()
    with untouched(tmp_path), pytest.raises(ArchiveError, match=reason) as caught:
        unpack(archive, tmp_path / "out" / "target", LIMITS)
    assert caught.value.message.startswith(f"{name}: ")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("case", ZIPS)
def test_hostile_zip(tmp_path: Path, case: str) -> None:
    """A hostile or broken .mar is refused with its reason, and nothing is written."""
    refuse(tmp_path, "x.mar", *ZIPS[case])


@pytest.mark.parametrize("case", TARS)
def test_hostile_tar(tmp_path: Path, case: str) -> None:
    """A hostile or broken .tar.gz is refused with its reason, and nothing is written."""
    refuse(tmp_path, "x.tar.gz", *TARS[case])


@pytest.mark.parametrize(("name", "data"), [("x.mar", GOOD_ZIP), ("x.tar.gz", GOOD_TAR)])
def test_the_cases_are_hostile_for_one_reason(tmp_path: Path, name: str, data: bytes) -> None:
    """The archives that the cases are made from are fine themselves."""
    (tmp_path / name).write_bytes(data)
    files = unpack(tmp_path / name, tmp_path / "target", LIMITS)
    assert {"MAR-INF/MANIFEST.json", "a/b.txt"} <= {file.name for file in files}
    assert (tmp_path / "target" / "a" / "b.txt").read_bytes() == b"data"


def cut(data: bytes, choice: random.Random) -> bytes:
    """Return a true prefix."""
    return data[: choice.randrange(len(data))]


def flip(data: bytes, choice: random.Random) -> bytes:
    """Change up to four bytes."""
    changed = bytearray(data)
    for _ in range(choice.randint(1, 4)):
        changed[choice.randrange(len(data))] = choice.randrange(256)
    return bytes(changed)


def splice(data: bytes, choice: random.Random) -> bytes:
    """Copy one stretch of the archive over another."""
    length = choice.randint(1, 64)
    source, target = (choice.randrange(len(data) - length) for _ in range(2))
    return data[:target] + data[source : source + length] + data[target + length :]


@pytest.mark.parametrize("damage", [cut, flip, splice])
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.mar", GOOD_ZIP),
        ("x.tar.gz", GOOD_TAR),
        ("x.tar.gz", gzip.decompress(GOOD_TAR)[:2048]),
    ],
    ids=["zip", "gzip", "tar"],
)
def test_damaged_anywhere(
    tmp_path: Path, name: str, data: bytes, damage: Callable[[bytes, random.Random], bytes]
) -> None:
    """Whatever is damaged, the outcome is a whole folder or `ArchiveError`, and nothing else."""
    choice = random.Random(f"{name} {damage.__name__}")
    archive = tmp_path / name
    target = tmp_path / "target"
    for _ in range(25):
        hurt = damage(data, choice)
        # bare tar blocks: damage the headers, not the compression around them
        archive.write_bytes(hurt if data.startswith((b"PK", b"\x1f\x8b")) else gzip.compress(hurt))
        try:
            files = unpack(archive, target, LIMITS)
        except ArchiveError:
            assert sorted(tmp_path.iterdir()) == [archive]
            continue
        assert sorted(tmp_path.iterdir()) == sorted([archive, target])
        found = [path for path in target.rglob("*") if not path.is_dir()]
        assert len(found) == len(files)
        assert all(stat.S_ISREG(path.lstat().st_mode) for path in found)
        target.rename(tmp_path / "done")
        for path in sorted((tmp_path / "done").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (tmp_path / "done").rmdir()


@pytest.mark.parametrize(("name", "data"), [("x.mar", GOOD_ZIP), ("x.tar.gz", GOOD_TAR)])
def test_cut_short_at_every_byte(tmp_path: Path, name: str, data: bytes) -> None:
    """An archive that is still being copied is refused, wherever the copy has got to."""
    archive = tmp_path / name
    for length in range(0, len(data), 3):
        archive.write_bytes(data[:length])
        with pytest.raises(ArchiveError):
            unpack(archive, tmp_path / "target", LIMITS)
    assert list(tmp_path.iterdir()) == [archive]


def test_a_half_copied_archive_of_archives(tmp_path: Path) -> None:
    """The complete inner archive of a half-copied one is not taken for the whole."""
    outer = zip_of(good(), Entry(name=b"inner.zip", data=GOOD_ZIP, method=0), Entry(name=b"z"))
    archive = tmp_path / "x.mar"
    archive.write_bytes(outer[: outer.index(GOOD_ZIP) + len(GOOD_ZIP)])
    with pytest.raises(ArchiveError, match="still being copied"):
        unpack(archive, tmp_path / "target", LIMITS)
