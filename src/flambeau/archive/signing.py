"""Signs archives and model folders, and says what a signature says of one: `flambeau sign`, `verify`."""

import hashlib
import os
from pathlib import Path

from flambeau.archive.admission import Policy, Signature, altered, differences
from flambeau.archive.keys import SigningKey
from flambeau.archive.signatures import (
    FOLDER_SIGNATURE,
    SIGNATURE_SUFFIX,
    WHOLE,
    SignedFiles,
    ignored_paths,
    write_bundle,
    write_statement,
)
from flambeau.archive.staging import staged_file
from flambeau.archive.unpack import open_archive
from flambeau.errors import ArchiveError


def sign(model: Path, key: SigningKey, *, links: bool = False) -> Path:
    """Sign an archive or a folder; returns the signature's file, which takes an older one's place.

    `model.mar.sig` beside an archive, `model.sig` in a folder. With `links`, a folder's symbolic links
    count as the files that they lead to. Raises `ArchiveError`.
    """
    files = _folder(model, links=links) if model.is_dir() else _archive(model)
    name = Path(os.path.abspath(model)).name
    bundle = write_bundle(key.sign(write_statement(name, files)))
    target = signature_file(model)
    try:
        with staged_file(target) as file:
            file.write(bundle)
    except OSError as error:
        raise ArchiveError(f"{target} cannot be written: {error.strerror or error}") from error
    return target


def signature_file(model: Path) -> Path:
    """Where a model's signature lies."""
    if model.is_dir():
        return model / FOLDER_SIGNATURE
    return model.with_name(model.name + SIGNATURE_SUFFIX)


def verify(model: Path, policy: Policy) -> Signature:
    """Compare a model with its signature. Raises `ArchiveError` where there is no such model."""
    if not model.is_dir():
        return policy.judge_archive(model, model.name, _archive(model).digests[WHOLE])
    signed, signature = policy.judge_folder(model)
    difference = differences(model, signed) if signed is not None else ""
    return altered(difference) if difference else signature


def _archive(model: Path) -> SignedFiles:
    with open_archive(model) as file:
        return SignedFiles({WHOLE: hashlib.file_digest(file, "sha256").hexdigest()})


def _folder(model: Path, *, links: bool) -> SignedFiles:
    left_out = SignedFiles({}, ignored_paths(), links)
    digests: dict[str, str] = {}
    for path in sorted(model.rglob("*")):
        name = path.relative_to(model).as_posix()
        if left_out.ignores(name) or (path.is_dir() and not path.is_symlink()):
            continue
        if path.is_symlink() and (not links or path.is_dir()):
            raise ArchiveError(
                f"{path} is a symbolic link: sign a folder of files, or links to files with --links"
            )
        if not path.is_file():
            raise ArchiveError(f"{path} is neither a file nor a folder")
        with path.open("rb") as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    if not digests:
        raise ArchiveError(f"{model} holds no files to sign")
    return SignedFiles(digests, left_out.ignored, links)
