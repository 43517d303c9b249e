"""Named tokens: keys with a scope, perhaps one model, and an end, in a file that outlives the server.

The file holds SHA-256 digests, no keys: a key is shown once, when it is made. Whoever can write the
file can let himself in, so it must be its owner's alone. A server reads it again when it changes.
"""

import contextlib
import datetime
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from flambeau.archive.names import check_name
from flambeau.archive.staging import staged_file
from flambeau.errors import ConfigError
from flambeau.ipc.frontend_messages import Grant
from flambeau.serving.tokens import TokenScope, digest_of, new_key

MAX_TOKENS = 1000
"""In a file: each request's key is compared with all of them."""

ScopeName = Literal["inference", "management", "metrics", "token"]
_SCOPES: dict[ScopeName, TokenScope] = {
    "inference": TokenScope.INFERENCE,
    "management": TokenScope.MANAGEMENT,
    "metrics": TokenScope.METRICS,
    "token": TokenScope.API,
}
_OF_MODELS = ("inference", "management")
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class NamedToken(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One token. `sha256` is the digest of its key in hexadecimal; without `expires` it never ends.

    With a `model` it opens the routes that name this model in their path, and no others. A field
    that is not known is refused: it could be a limit that would not count.
    """

    name: str
    scope: ScopeName
    sha256: str
    created: datetime.datetime
    expires: datetime.datetime | None = None
    model: str = ""

    def __post_init__(self) -> None:
        if len(bytes.fromhex(self.sha256)) != 32:
            raise ValueError("sha256 has to have 64 digits")
        if self.expires is not None and self.expires.tzinfo is None:
            raise ValueError("expires has to have a time zone")
        if self.model and self.scope not in _OF_MODELS:
            raise ValueError(_no_single_model(self.scope))

    def grant(self) -> Grant:
        """What the gate needs to know."""
        end = self.expires.timestamp() if self.expires is not None else None
        return Grant(bytes.fromhex(self.sha256), _SCOPES[self.scope].value, end, self.model)


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tokens: list[NamedToken]


def read_tokens(file: Path) -> list[NamedToken]:
    """The tokens of a file, none where there is no file. Raises `ConfigError` for a wrong one."""
    try:
        with file.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            data = opened.read()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"tokens_file={file} cannot be read: {error.strerror}") from error
    if mode & _OTHERS_WRITE:
        raise ConfigError(
            f"tokens_file={file} can be written by others, who could let themselves in:"
            " chmod 600 the file"
        )
    try:
        tokens = msgspec.json.decode(data, type=_Document).tokens
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(
            f"tokens_file={file} is not what flambeau token create writes: {error}"
        ) from error
    if len(tokens) > MAX_TOKENS:
        raise ConfigError(f"tokens_file={file} has {len(tokens)} tokens, the most is {MAX_TOKENS}")
    _check_distinct(file, tokens)
    return tokens


def create_token(
    file: Path,
    name: str,
    scope: ScopeName,
    *,
    model: str = "",
    lifetime: datetime.timedelta | None = None,
) -> str:
    """Add a token to the file, which is made if need be; returns its key.

    Raises `ConfigError` for a name that is taken, a model that none can be, and a wrong file.
    """
    if model:
        check_name("model name", model)
        if scope not in _OF_MODELS:
            raise ConfigError(_no_single_model(scope))
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    key = new_key()
    expires = now + lifetime if lifetime is not None else None
    token = NamedToken(name, scope, digest_of(key).hex(), now, expires, model)
    with _changing(file) as tokens:
        if any(each.name == name for each in tokens):
            raise ConfigError(f"{file} has a token named {name!r}: choose another, or revoke it.")
        if len(tokens) >= MAX_TOKENS:
            raise ConfigError(f"{file} has {MAX_TOKENS} tokens, the most: revoke some.")
        tokens.append(token)
    return key


def revoke_token(file: Path, name: str) -> None:
    """Take a token out of the file. Raises `ConfigError` where there is none of that name."""
    with _changing(file) as tokens:
        kept = [each for each in tokens if each.name != name]
        if len(kept) == len(tokens):
            raise ConfigError(f"{file} has no token named {name!r}.")
        tokens[:] = kept


def _no_single_model(scope: str) -> str:
    return f"A token of the scope {scope} is for no single model."


def _check_distinct(file: Path, tokens: list[NamedToken]) -> None:
    """Refuse a key that is listed twice: only one entry could say what it opens."""
    names: dict[bytes, str] = {}
    for token in tokens:
        digest = bytes.fromhex(token.sha256)
        if digest in names:
            raise ConfigError(
                f"tokens_file={file}: {names[digest]!r} and {token.name!r} have the same sha256:"
                " remove one of them"
            )
        names[digest] = token.name


@contextlib.contextmanager
def _changing(file: Path) -> Iterator[list[NamedToken]]:
    """The file's tokens, to be changed; written back at the end, one process at a time."""
    try:
        folder = os.open(file.absolute().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"{file.absolute().parent}: {error.strerror}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        tokens = read_tokens(file)
        yield tokens
        with staged_file(file, private=True) as opened:
            opened.write(msgspec.json.format(msgspec.json.encode(_Document(tokens)), indent=2))
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror or error}") from error
    finally:
        os.close(folder)
