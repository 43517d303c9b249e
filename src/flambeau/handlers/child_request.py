"""Requests of the commands to their child processes, as JSON. Pure: the commands import it."""

from pathlib import Path
from typing import Any, TypeVar

import msgspec

Request = TypeVar("Request", bound=msgspec.Struct)


def encode_request(request: msgspec.Struct) -> str:
    """A request as JSON, for the child process that carries it out."""
    return msgspec.json.encode(request, enc_hook=str).decode()


def decode_request(text: str, kind: type[Request]) -> Request:
    """The reverse of `encode_request`, for a request of this class."""
    return msgspec.json.decode(text, type=kind, dec_hook=_path)


def _path(kind: type[Path], value: Any) -> Path:
    return kind(value)
