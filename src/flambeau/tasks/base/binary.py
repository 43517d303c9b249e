"""Files in a request: as the body itself, or in base64 within JSON."""

import base64
import binascii
import re

from flambeau.tasks.base.parsing import RowValue, json_type

_DATA_URL = re.compile(r"data:[\w.+/;=-]*;base64,", re.ASCII)


class NotAFileError(ValueError):
    """A value that holds no file. The text says why."""


def is_json(value: RowValue) -> bool:
    """Whether bytes begin like a JSON object, list or text, as no picture and no sound does."""
    return isinstance(value, bytes) and value.lstrip()[:1] in (b"{", b"[", b'"')


def file_bytes(value: RowValue, what: str) -> bytes:
    """The file that a value holds: bytes, or base64 with or without `data:…;base64,`.

    Raises `NotAFileError`; addresses are never fetched.
    """
    if isinstance(value, bytes | bytearray):
        data = bytes(value)
    elif isinstance(value, str):
        if value.startswith(("http://", "https://", "file:")):
            raise NotAFileError(f"{what} is an address; send the file itself, or its base64")
        start = _DATA_URL.match(value)
        try:
            data = base64.b64decode(value[start.end() if start else 0 :], validate=True)
        except (binascii.Error, ValueError):
            raise NotAFileError(f"{what} is no base64") from None
    else:
        raise NotAFileError(f"{what} must be a file in base64, not {json_type(value)}")
    if not data:
        raise NotAFileError(f"{what} is empty")
    return data
