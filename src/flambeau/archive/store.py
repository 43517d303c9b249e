"""The model store: finds archives and model folders by name, and opens them.

An archive is unpacked once, into `cache/<its SHA-256>/`:

    model/          the archive's files
    contents.json   their names and sizes, the last thing that is written

The whole folder appears by a rename, under a lock per archive, so that processes may share a cache.
Files that a handler adds below `model/` are let be.
"""

import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from flambeau.archive.entries import Limits
from flambeau.archive.manifest import MANIFEST_PATH, Manifest, read_manifest
from flambeau.archive.names import check_name, default_model_name, shown
from flambeau.archive.staging import STAGE_SUFFIX, staged_folder
from flambeau.archive.unpack import UnpackedFile, extract, open_archive
from flambeau.errors import ArchiveError, ErrorKind

__all__ = ["ModelStore", "OpenedArchive", "check_name", "default_model_name"]

_LISTED_SUFFIXES = (".mar", ".model", ".tar.gz")
_MODEL_FOLDER = "model"
_CONTENTS_FILE = "contents.json"


class OpenedArchive(msgspec.Struct, frozen=True):
    """A model on the disk, ready to load.

    `digest` is the archive's SHA-256 in hexadecimal, "" for a folder. The manifest names a model
    and a version only if its author did.
    """

    model_dir: Path
    manifest: Manifest
    digest: str


class ModelStore:
    """Archives and model folders directly below `root`; unpacked archives below `cache`."""

    def __init__(self, root: Path, cache: Path, limits: Limits | None = None) -> None:
        self._root = root
        self._cache = cache
        self._limits = limits or Limits()

    def find(self, url: str, *, allow_absolute_dirs: bool = False) -> Path:
        """Return the path of the archive or folder that `url` names (contract.md section 6.5).

        A path is reduced to its last part and looked up in the store. The absolute path of a
        folder is taken as it is if the folder lies in the store, or with `allow_absolute_dirs`,
        which is for operators and never for requests. Raises `ArchiveError` of kind
        `MODEL_NOT_FOUND`, with TorchServe's text where a client may look for it.
        """
        _check_url(url)
        path = Path(url)
        if (
            path.is_absolute()
            and (allow_absolute_dirs or path.resolve().is_relative_to(self._root.resolve()))
            and path.is_dir()
        ):
            return path
        found = self._root / path.name
        if not path.name or path.name.startswith(".") or not found.exists():
            raise _not_found(f"Model not found at: {url}")
        return found

    def list_all(self) -> list[Path]:
        """Return what `--models all` means, sorted: archives and folders that are not hidden.

        Raises `ArchiveError` if the store cannot be read.
        """
        try:
            paths = sorted(self._root.iterdir())
        except OSError as error:
            raise ArchiveError(
                f"the model store {self._root} cannot be read: {error.strerror}"
            ) from error
        return [
            path
            for path in paths
            if not path.name.startswith(".")
            and (path.is_dir() or (path.name.endswith(_LISTED_SUFFIXES) and path.is_file()))
        ]

    def open(self, path: Path) -> OpenedArchive:
        """Make the model at `path` ready: unpack an archive, take a folder as it is.

        A folder whose only child is a folder stands for that child, as on SageMaker. Raises
        `ArchiveError` for what cannot be loaded, an archive that is still being copied included;
        then nothing new is in the cache. This reads whole files: call it off the event loop.
        """
        if path.is_dir():
            model_dir = _only_child(path)
            try:
                return OpenedArchive(model_dir, read_manifest(model_dir), "")
            except ArchiveError as error:
                raise ArchiveError(f"{path.name}: {error.message}", error.kind) from error
        with open_archive(path) as file:
            before = os.fstat(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            try:
                model_dir = self._cached(file, path, digest, before)
                manifest = read_manifest(model_dir)
            except ArchiveError as error:
                _check_unchanged(path, before)
                raise ArchiveError(f"{path.name}: {error.message}", error.kind) from error
            except OSError as error:
                raise ArchiveError(
                    f"{path.name} cannot be unpacked into {self._cache}: {error.strerror or error}",
                    ErrorKind.INTERNAL,
                ) from error
            _check_unchanged(path, before)
        return OpenedArchive(model_dir, manifest, digest)

    def _cached(self, file: BinaryIO, path: Path, digest: str, before: os.stat_result) -> Path:
        """Return the unpacked archive's folder, made or repaired if need be."""
        target = self._cache / digest
        self._cache.mkdir(parents=True, exist_ok=True)
        with _locked(self._cache / f".{digest}.lock"):
            if not _is_intact(target):
                for leftover in self._cache.glob(f".{digest}.*{STAGE_SUFFIX}"):
                    shutil.rmtree(leftover, ignore_errors=True)
                with staged_folder(target) as stage:
                    model_dir = stage / _MODEL_FOLDER
                    model_dir.mkdir()
                    files = extract(file, path.name, model_dir, self._limits)
                    read_manifest(model_dir)
                    _check_unchanged(path, before)
                    (stage / _CONTENTS_FILE).write_bytes(msgspec.json.encode(files))
        return target / _MODEL_FOLDER


def _check_url(url: str) -> None:
    if not url:
        raise _not_found("empty url")
    if ".." in url.split("/"):
        raise _not_found(f"Relative path is not allowed in url: {url}")
    if "://" in url:
        raise _not_found(
            f"Given URL {url} does not match any allowed URL(s); "
            "name an archive or a folder of the model store"
        )
    if "\\" in url or not url.isprintable():
        raise _not_found(f"Model not found at: {shown(url)}")


def _not_found(message: str) -> ArchiveError:
    return ArchiveError(message, ErrorKind.MODEL_NOT_FOUND)


def _only_child(folder: Path) -> Path:
    try:
        children = list(folder.iterdir())
    except OSError as error:
        raise ArchiveError(f"{folder} cannot be read: {error.strerror}") from error
    if len(children) == 1 and children[0].is_dir() and children[0].name != MANIFEST_PATH.parts[0]:
        return children[0]
    return folder


def _check_unchanged(path: Path, before: os.stat_result) -> None:
    """Refuse an archive that was written to, replaced or removed while it was read."""
    try:
        now = path.stat()
    except OSError:
        now = None
    if now is None or _version(now) != _version(before):
        raise ArchiveError(
            f"{path.name} changed while it was read: it is still being copied. Try again when the "
            "copy is complete, or copy under another name and rename"
        )


def _version(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _is_intact(target: Path) -> bool:
    """Say whether every file that was unpacked is still there, with its size."""
    try:
        contents = (target / _CONTENTS_FILE).read_bytes()
        files = msgspec.json.decode(contents, type=tuple[UnpackedFile, ...])
        for file in files:
            status = (target / _MODEL_FOLDER / file.name).lstat()
            if not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
                return False
    except (OSError, msgspec.DecodeError):
        return False
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file `path` against other processes and threads."""
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
