"""Unpacking archives that are as they should be."""

import gzip
import io
import os
import stat
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from typing_extensions import override

from flambeau.archive.entries import Limits
from flambeau.archive.unpack import unpack
from flambeau.errors import ArchiveError, ErrorKind, StorageError


def tree(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder and what is in them."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A model's folder with what archives have trouble with: depth, length, accents, emptiness."""
    folder = tmp_path / "source"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "deep" / "er" / ("n" * 200 + ".txt")).write_bytes(b"long name")
    (folder / "ünï.txt").write_bytes(b"accents")
    (folder / "nothing").touch()
    (folder / "weights.bin").write_bytes(os.urandom(3 * 2**20 + 7))
    (folder / "run.sh").write_bytes(b"#!/bin/sh\n")
    (folder / "run.sh").chmod(0o4777)
    return folder


def make_zip(source: Path, archive: Path) -> None:
    """Zip a folder with entries for its folders, as `zip -r` does."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(source.rglob("*")):
            file.write(path, path.relative_to(source))


def make_tar(source: Path, archive: Path, *options: str) -> None:
    """Run the system's tar."""
    command = ["tar", "-czf", str(archive), *options, "-C", str(source.parent), source.name]
    subprocess.run(command, check=True)


@pytest.mark.parametrize("form", ["zip", "gnu", "posix", "dot"])
def test_unpack(tmp_path: Path, source: Path, form: str) -> None:
    """Every file arrives with its content, whichever tool packed it."""
    archive = tmp_path / ("x.mar" if form == "zip" else "x.tar.gz")
    if form == "zip":
        make_zip(source, archive)
    elif form == "dot":
        subprocess.run(["tar", "-czf", str(archive), "-C", str(source), "."], check=True)
    else:
        make_tar(source, archive, f"--format={form}")
    files = unpack(archive, tmp_path / "target")
    assert tree(tmp_path / "target") == tree(source)
    assert {file.name: file.size for file in files} == {
        name: len(data) for name, data in tree(source).items()
    }


def test_permissions_are_not_taken_over(tmp_path: Path, source: Path) -> None:
    """Files are never executable or set-uid, folders are the server's."""
    make_tar(source, tmp_path / "x.tar.gz")
    unpack(tmp_path / "x.tar.gz", tmp_path / "target")
    for path in (tmp_path / "target").rglob("*"):
        mode = path.stat().st_mode
        assert stat.S_IMODE(mode) & ~(0o755 if path.is_dir() else 0o644) == 0
        assert path.stat().st_uid == os.getuid()


def test_zip_without_compression(tmp_path: Path) -> None:
    """Stored entries are read as well."""
    with zipfile.ZipFile(tmp_path / "x.mar", "w") as file:
        file.writestr("a", b"1")
    unpack(tmp_path / "x.mar", tmp_path / "target")
    assert tree(tmp_path / "target") == {"a": b"1"}


def test_zip_that_was_written_to_a_pipe(tmp_path: Path) -> None:
    """Entries whose sizes follow their data (data descriptors) are read as well."""

    class Pipe(io.BytesIO):
        @override
        def seekable(self) -> bool:
            return False

        @override
        def tell(self) -> int:
            raise OSError

        @override
        def seek(self, *_: int) -> int:
            raise OSError

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a", b"1" * 1000)
        file.writestr("b", b"2")
    (tmp_path / "x.mar").write_bytes(pipe.getvalue())
    unpack(tmp_path / "x.mar", tmp_path / "target")
    assert tree(tmp_path / "target") == {"a": b"1" * 1000, "b": b"2"}


@pytest.mark.parametrize("name", ["x.model", "x"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_other_suffixes_are_judged_by_content(tmp_path: Path, name: str, kind: str) -> None:
    """A name that says nothing about the format is no obstacle."""
    source = tmp_path / "m"
    source.mkdir()
    (source / "a").write_bytes(b"1")
    (make_zip if kind == "zip" else make_tar)(source, tmp_path / name)
    unpack(tmp_path / name, tmp_path / "target")
    assert tree(tmp_path / "target") == {"a": b"1"}


def test_files_at_the_root_of_a_tar_stay(tmp_path: Path) -> None:
    """SageMaker's layout, weights at the root and code in a folder, keeps every file."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as file:
        for name in ("model.pth", "code/inference.py"):
            member = tarfile.TarInfo(name)
            member.size = 1
            file.addfile(member, io.BytesIO(b"x"))
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(raw.getvalue()))
    unpack(tmp_path / "x.tar.gz", tmp_path / "target")
    assert set(tree(tmp_path / "target")) == {"model.pth", "inference.py"}


def test_ustar_prefix(tmp_path: Path) -> None:
    """A long ustar name, which is kept in two fields, is put together."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as file:
        file.addfile(tarfile.TarInfo("m/" + "a" * 90 + "/" + "b" * 60))
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(raw.getvalue()))
    unpack(tmp_path / "x.tar.gz", tmp_path / "target")
    assert set(tree(tmp_path / "target")) == {"a" * 90 + "/" + "b" * 60}


def test_limits_are_the_callers(tmp_path: Path, source: Path) -> None:
    """A limit that is set lower counts; the default lets the same archive pass."""
    make_zip(source, tmp_path / "x.mar")
    with pytest.raises(ArchiveError, match="more than 3 entries"):
        unpack(tmp_path / "x.mar", tmp_path / "target", Limits(entries=3))
    with pytest.raises(ArchiveError, match=r"more than is allowed .* 'weights\.bin'"):
        unpack(tmp_path / "x.mar", tmp_path / "target", Limits(total_bytes=2**20))
    assert unpack(tmp_path / "x.mar", tmp_path / "target")


def test_no_archive(tmp_path: Path) -> None:
    """A missing file, a folder and a FIFO are no archives; the FIFO is not waited for."""
    (tmp_path / "folder.mar").mkdir()
    os.mkfifo(tmp_path / "fifo.mar")
    for name in ("absent.mar", "folder.mar", "fifo.mar"):
        with pytest.raises(ArchiveError, match="Model not found at") as caught:
            unpack(tmp_path / name, tmp_path / "target")
        assert caught.value.kind is ErrorKind.MODEL_NOT_FOUND


def test_the_target_must_be_new(tmp_path: Path, source: Path) -> None:
    """Nothing is unpacked over what is there."""
    make_zip(source, tmp_path / "x.mar")
    with pytest.raises(ArchiveError, match="exists already"):
        unpack(tmp_path / "x.mar", source)


def test_a_target_that_cannot_be_written(tmp_path: Path, source: Path) -> None:
    """The server's own trouble is not blamed on the archive."""
    make_zip(source, tmp_path / "x.mar")
    with pytest.raises(StorageError, match="cannot be unpacked into"):
        unpack(tmp_path / "x.mar", tmp_path / "absent" / "target")
