"""The model store: finds archives and model folders by name, and opens them.

An archive is unpacked into the cache (`cache.py`), a folder is used in place.
"""

import functools
import hashlib
import logging
import os
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

import msgspec

from flambeau.archive.admission import (
    Policy,
    Signature,
    altered,
    differences,
    own_copy,
    untrusted,
)
from flambeau.archive.cache import ArchiveCache, CacheBounds
from flambeau.archive.entries import Limits
from flambeau.archive.manifest import MANIFEST_PATH, Manifest, ManifestError, read_manifest
from flambeau.archive.names import shown
from flambeau.archive.signatures import SignedFiles
from flambeau.archive.unpack import UnpackedFile, extract, open_archive
from flambeau.errors import ArchiveError, ErrorKind, StorageError

logger = logging.getLogger(__name__)

_LISTED_SUFFIXES = (".mar", ".model", ".tar.gz")

_NAME_BYTES = 255
_PATH_BYTES = 4000
"""Of a file and of a path: beyond, the file system answers with an error instead of a no."""


class OpenedArchive(msgspec.Struct, frozen=True):
    """A model on the disk, ready to load.

    `digest` is the archive's SHA-256 in hexadecimal, "" for a folder that is used in place. The
    manifest names a model and a version only if its author did.
    """

    model_dir: Path
    manifest: Manifest
    digest: str
    signature: Signature = Signature()


class ModelStore:
    """Archives and model folders directly below `root`; unpacked archives below `cache`."""

    def __init__(
        self,
        root: Path,
        cache: Path,
        limits: Limits | None = None,
        bounds: CacheBounds | None = None,
        policy: Policy | None = None,
    ) -> None:
        self.root = root
        self.policy = policy or Policy()
        self._cache = ArchiveCache(cache, bounds or CacheBounds())
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
            and (allow_absolute_dirs or path.resolve().is_relative_to(self.root.resolve()))
            and path.is_dir()
        ):
            return path
        found = self.root / path.name
        if not path.name or path.name.startswith(".") or not found.exists():
            raise _not_found(f"Model not found at: {url}")
        return found

    def list_all(self) -> list[Path]:
        """Return what `--models all` means, sorted: archives and folders that are not hidden.

        Raises `ArchiveError` if the store cannot be read.
        """
        try:
            paths = sorted(self.root.iterdir())
        except OSError as error:
            raise ArchiveError(
                f"the model store {self.root} cannot be read: {error.strerror}"
            ) from error
        return [
            path
            for path in paths
            if not path.name.startswith(".")
            and (path.is_dir() or (path.name.endswith(_LISTED_SUFFIXES) and path.is_file()))
        ]

    def open(self, path: Path, name: str = "") -> OpenedArchive:
        """Make the model at `path` ready: unpack an archive, take a folder as it is.

        A folder whose only child is a folder stands for that child, as on SageMaker. `name` is the
        archive's name where `path` has another. What is opened stays in the cache until `release`.
        Raises `ArchiveError` for what cannot be loaded, an archive that is still being copied
        included, and of kind UNTRUSTED for what the policy on signatures refuses; then nothing new
        is in the cache. This reads whole files: call it off the event loop.
        """
        name = name or path.name
        if path.is_dir():
            return self._open_folder(path, name)
        with open_archive(path) as file:
            before = os.fstat(file.fileno())
            opened = None
            try:
                opened = self._open_file(
                    file, path, name, functools.partial(_check_unchanged, path, before)
                )
                _check_unchanged(path, before)
            except ArchiveError as error:
                if opened is not None:
                    self.release(opened)
                    raise
                _check_unchanged(path, before)
                raise _named(error, name) from error
            except OSError as error:
                raise self._failed(name, error) from error
        return opened

    def release(self, archive: OpenedArchive) -> None:
        """Say that a model of `open` is no longer served; its files may go from the cache."""
        if archive.digest:
            self._cache.release(archive.digest)

    def _open_file(
        self, file: BufferedReader, path: Path, name: str, check: Callable[[], None]
    ) -> OpenedArchive:
        """Judge and unpack an archive. `check` raises if it was written to meanwhile."""
        if self.policy.mode == "require":
            with own_copy(file, self._cache.folder) as (copy, digest):
                signature = self.policy.judge_archive(path, name, digest)
                return self._unpacked(copy, name, digest, signature, check)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        signature = self.policy.judge_archive(path, name, digest)
        return self._unpacked(file, name, digest, signature, check)

    def _unpacked(
        self,
        file: BinaryIO,
        name: str,
        digest: str,
        signature: Signature,
        check: Callable[[], None],
    ) -> OpenedArchive:
        """Return the unpacked archive, made or repaired if need be."""

        def fill(model_dir: Path) -> tuple[UnpackedFile, ...]:
            files = extract(file, name, model_dir, self._limits)
            read_manifest(model_dir)
            check()
            return files

        return self._opened(digest, fill, signature)

    def _opened(
        self,
        digest: str,
        fill: Callable[[Path], tuple[UnpackedFile, ...]],
        signature: Signature,
    ) -> OpenedArchive:
        afresh = self.policy.mode == "require"
        model_dir = self._cache.open(digest, fill, afresh=afresh)
        try:
            return OpenedArchive(model_dir, read_manifest(model_dir), digest, signature)
        except ArchiveError:
            self._cache.release(digest)
            raise

    def _open_folder(self, path: Path, name: str) -> OpenedArchive:
        """Use a folder in place; one that has to be signed is copied, and the copy is verified."""
        folder = _only_child(path)
        try:
            signed, signature = self.policy.judge_folder(folder)
            if signed is not None and self.policy.covers(folder):
                return self._copied(folder, signed, signature)
            if signed is not None and (difference := differences(folder, signed)):
                signature = altered(difference)
            return OpenedArchive(folder, read_manifest(folder), "", signature)
        except ArchiveError as error:
            raise _named(error, name) from error
        except OSError as error:
            raise self._failed(name, error) from error

    def _copied(self, folder: Path, signed: SignedFiles, signature: Signature) -> OpenedArchive:
        def fill(model_dir: Path) -> tuple[UnpackedFile, ...]:
            if difference := differences(folder, signed, model_dir):
                raise untrusted(difference)
            read_manifest(model_dir)
            sizes = {name: (model_dir / name).stat().st_size for name in signed.digests}
            return tuple(UnpackedFile(name, size) for name, size in sizes.items())

        return self._opened(signed.key(), fill, signature)

    def _failed(self, name: str, error: OSError) -> StorageError:
        return StorageError(f"{name} cannot be unpacked into {self._cache.folder}", error)


def _named(error: ArchiveError, name: str) -> ArchiveError:
    """The same error with the archive's name in front; TorchServe's own texts stay alone."""
    if isinstance(error, ManifestError):
        logger.warning("%s: %s", name, error.reason)
        return error
    return ArchiveError(f"{name}: {error.message}", error.kind)


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
    if len(url.encode()) > _PATH_BYTES or any(
        len(part.encode()) > _NAME_BYTES for part in url.split("/")
    ):
        raise _not_found(f"Model not found at: {url[:_NAME_BYTES]}... (no file has so long a name)")


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
