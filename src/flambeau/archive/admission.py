"""Which models are let in: the policy on signatures, decided before an archive is parsed (G32).

`off`: nobody looks. `warn`: what the signature says is told, and the model is served. `require`: only
a model whose every byte a trusted signer has signed. What is verified then is a copy of our own, and
what is served is made of that copy: whoever writes to the store meanwhile changes neither.
"""

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec

from flambeau.archive.entries import CHUNK_BYTES
from flambeau.archive.keys import Trusted, read_trusted
from flambeau.archive.names import shown
from flambeau.archive.signatures import (
    FOLDER_SIGNATURE,
    MAX_BYTES,
    SIGNATURE_SUFFIX,
    WHOLE,
    SignatureError,
    SignedFiles,
    read_bundle,
    read_statement,
)
from flambeau.errors import ArchiveError, ConfigError, ErrorKind

Mode = Literal["off", "warn", "require"]
Status = Literal["unchecked", "unsigned", "untrusted", "altered", "verified"]


class Signature(msgspec.Struct, frozen=True):
    """What is known of a model's signature: who signed it, or why it does not count."""

    status: Status = "unchecked"
    signer: str = ""
    reason: str = ""


class Policy(msgspec.Struct, frozen=True):
    """The operator's choice. `trusted` is a folder of keys and certificates, or one file of them.

    Folders in `exempt` are let in as they are: the server's own, made of what was checked before.
    """

    mode: Mode = "off"
    trusted: Path | None = None
    identities: tuple[str, ...] = ()
    exempt: Path | None = None

    def check(self) -> None:
        """Raise `ConfigError` for a policy that cannot work, at start and not at the first model."""
        if self.mode == "require" and self.trusted is None:
            raise ConfigError(
                "require_signed=require lets no model in without trusted_keys: name a folder with"
                " the public keys (PEM) of those who sign"
            )
        if self.trusted is not None:
            read_trusted(self.trusted, self.identities)

    def covers(self, folder: Path) -> bool:
        """Whether a folder has to be signed in order to be served."""
        exempt = self.exempt is not None and folder.resolve().is_relative_to(self.exempt.resolve())
        return self.mode == "require" and not exempt

    def judge_archive(self, path: Path, name: str, digest: str) -> Signature:
        """What the signature beside an archive says of its SHA-256. `name` is what it is called.

        Raises `ArchiveError` (UNTRUSTED) where it has to be signed, and is not.
        """
        if self.mode == "off":
            return Signature()
        places = [path, path.with_name(name), path.resolve()]
        files = [each.with_name(each.name + SIGNATURE_SUFFIX) for each in places]
        signed, signature = self._signed(files)
        if signed is not None and signed.digests != {WHOLE: digest}:
            reason = f"its SHA-256 is {digest}, and another one is signed: it was altered"
            signature = Signature("altered", signature.signer, reason)
        return self._let_in(signature)

    def judge_folder(self, folder: Path) -> tuple[SignedFiles | None, Signature]:
        """What a folder's signature promises of its files, which are still to be compared with it.

        Raises `ArchiveError` (UNTRUSTED) where it has to be signed, and is not.
        """
        if self.mode == "off":
            return None, Signature()
        beside = folder.with_name(folder.name + SIGNATURE_SUFFIX)
        signed, signature = self._signed([folder / FOLDER_SIGNATURE, beside])
        if not self.covers(folder):
            return signed, signature
        return signed, self._let_in(signature)

    def _signed(self, files: list[Path]) -> tuple[SignedFiles | None, Signature]:
        """The first signature that is there, verified."""
        file = next((each for each in files if each.is_file()), None)
        if file is None:
            return None, Signature("unsigned", reason=f"there is no {files[0].name} beside it")
        try:
            data = _read(file)
            bundle = read_bundle(data)
            signer = self._trusted().signer(bundle)
            return read_statement(bundle.payload), Signature("verified", signer)
        except SignatureError as error:
            return None, Signature("untrusted", reason=f"{file.name} does not count: {error}")

    def _trusted(self) -> Trusted:
        """Read anew each time: a key that is taken away must not wait for the next start."""
        if self.trusted is None:
            raise SignatureError("trusted_keys names nobody who may sign")
        try:
            return read_trusted(self.trusted, self.identities)
        except ConfigError as error:
            raise SignatureError(str(error)) from error

    def _let_in(self, signature: Signature) -> Signature:
        if self.mode == "require" and signature.status != "verified":
            raise untrusted(signature.reason)
        return signature


def untrusted(reason: str) -> ArchiveError:
    """The refusal of a model that has to be signed."""
    return ArchiveError(f"not trusted (require_signed): {reason}", ErrorKind.UNTRUSTED)


def altered(reason: str) -> Signature:
    """The finding that a model is not what was signed."""
    return Signature("altered", reason=reason)


@contextmanager
def own_copy(file: BinaryIO, folder: Path) -> Iterator[tuple[BinaryIO, str]]:
    """Copy an open file to one that nobody else can open; gives it and its SHA-256.

    It has no name and goes with the block. Raises `OSError`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as copy:
        digest = _copy(file, copy)
        copy.flush()
        copy.seek(0)
        yield copy, digest


def differences(folder: Path, signed: SignedFiles, target: Path | None = None) -> str:
    """How a folder's files differ from what was signed; "" where they do not.

    With `target`, an empty folder, each file is copied to it while it is compared: what was compared
    is what lies there. Files that the signature leaves out are not copied, and a link counts as the
    file that it leads to, as in the hub's cache: its content is signed, or refused.
    """
    found = set()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if signed.ignores(name) or (path.is_dir() and not path.is_symlink()):
            continue
        if path.is_symlink() and path.is_dir():
            return f"{shown(name)} is a link to a folder"
        wanted = signed.digests.get(name)
        if wanted is None:
            return f"{shown(name)} is not signed"
        place = None if target is None else target / name
        if _digest(path, place) != wanted:
            return f"{shown(name)} was altered"
        found.add(name)
    missing = sorted(signed.digests.keys() - found)
    return f"{shown(missing[0])} is missing" if missing else ""


def _digest(path: Path, place: Path | None) -> str:
    """A file's SHA-256, copied to `place` meanwhile; "" for what is no file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO would wait
    except OSError:
        return ""
    with os.fdopen(descriptor, "rb") as source:
        if not stat.S_ISREG(os.fstat(source.fileno()).st_mode):
            return ""
        if place is None:
            return hashlib.file_digest(source, "sha256").hexdigest()
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("xb") as copy:
            return _copy(source, copy)


def _copy(source: BinaryIO, target: BinaryIO) -> str:
    """Copy what is left of a file; returns its SHA-256."""
    digest = hashlib.sha256()
    while chunk := source.read(CHUNK_BYTES):
        digest.update(chunk)
        target.write(chunk)
    return digest.hexdigest()


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise SignatureError(f"it cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise SignatureError(f"it has more than {MAX_BYTES} bytes")
    return data
