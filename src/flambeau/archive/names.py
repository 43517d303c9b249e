"""Which names are allowed: of models, of versions, and of files inside an archive.

A name that came from outside becomes part of a path only after it passed one of these functions
(promises.md R5 and R10).
"""

import re
import unicodedata
from pathlib import PurePath
from typing import Literal

from flambeau.errors import ArchiveError, ErrorKind

NameKind = Literal["model name", "model version", "workflow name"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
_DRIVE = re.compile(r"[A-Za-z]:")
_SHOWN_CHARACTERS = 80


def check_name(kind: NameKind, text: str) -> str:
    """Return `text` if it may name a model or a version.

    Raises `ArchiveError` of kind `INVALID_INPUT` otherwise. The pattern is TorchServe's archiver's
    (contract.md section 1.1) with a limit of 128 characters; a version may have `+` too (1.0+cpu).
    """
    pattern, marks = _NAME, "'.', '_' or '-'"
    if kind == "model version":
        pattern, marks = _VERSION, "'.', '_', '-' or '+'"
    if pattern.fullmatch(text) is None:
        raise ArchiveError(
            f"{kind} {shown(text)} is not allowed: use 1 to 128 letters, digits, {marks}, "
            "the first of them a letter or a digit",
            ErrorKind.INVALID_INPUT,
        )
    return text


def default_model_name(path: PurePath) -> str:
    """Return the name of a model whose archive or folder does not name it itself.

    That is the file name, without its last extension if it has `.mar` or `.model` in it, with `_`
    in place of every character but ASCII letters and digits (contract.md section 2.4: `m.tar.gz`
    is `m_tar_gz`, the folder `m.v1` is `m_v1`). Leading `_` are dropped, because `check_name`
    would refuse them.
    """
    cut = ".mar" in path.name or ".model" in path.name
    return (
        re.sub(r"\W", "_", path.stem if cut else path.name, flags=re.ASCII).lstrip("_") or "model"
    )


def is_plain_name(text: str) -> bool:
    """Say whether `text` names an entry of a folder and nothing else: no path, no `..`."""
    return text not in {"", ".", ".."} and "/" not in text and _defect(text) is None


def entry_parts(name: str, *, drop_first: bool = False) -> tuple[str, ...]:
    """Split the name of an archive's entry into folder names and file name.

    Empty parts and `.` vanish; `()` means the archive's root. `drop_first` drops the first part of
    names that have several (tar.gz layout, contract.md section 1.6). Raises `ArchiveError` for
    every name that could reach outside, or that reads differently on another system.
    """
    defect = "is absolute" if name.startswith("/") else _defect(name)
    parts = name.split("/")
    if defect is None and ".." in parts:
        defect = "leaves the archive with '..'"
    if defect is not None:
        raise ArchiveError(f"the entry name {shown(name)} {defect}")
    if drop_first and len(parts) > 1:
        parts = parts[1:]
        if _DRIVE.match(parts[0]):
            raise ArchiveError(f"the entry name {shown(name)} begins with a drive letter")
    return tuple(part for part in parts if part not in {"", "."})


def collision_key(name: str) -> str:
    """Return what two names share if they are one file on a case-insensitive file system."""
    folded = unicodedata.normalize("NFC", name).casefold()
    return unicodedata.normalize("NFC", folded)


def shown(text: str) -> str:
    """Quote `text` for a message: control characters escaped, long texts cut."""
    return repr(text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…")


def _defect(name: str) -> str | None:
    if _DRIVE.match(name):
        return "begins with a drive letter"
    if "\\" in name:
        return "has a backslash"
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        return "has a control character"
    if any(0xD800 <= ord(character) <= 0xDFFF for character in name):
        return "is not UTF-8"
    return None
