"""Request bodies to fields, as TorchServe's handlers expect them (contract.md section 5.3).

Forms are split here, because a part's name and type are protocol; no value is decoded here.
"""

import asyncio
import logging
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import cast

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from flambeau.errors import ErrorKind, FlambeauError
from flambeau.protocols import limits
from flambeau.types import Field

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # a client's form is no event

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"

_AT_ONCE_BYTES = 64 * 1024
"""A larger form is split in a thread: escapes of 6 MB take more than a second."""

_BYTES = {
    f"%{high}{low}".encode(): bytes([int(high + low, 16)])
    for high in "0123456789abcdefABCDEF"
    for low in "0123456789abcdefABCDEF"
}
_ESCAPE = re.compile(rb"%[0-9a-fA-F]{2}")

_SLICE_BYTES = 16 * 1024

_threads = ThreadPoolExecutor(2, "forms")
"""Their own: the loop's threads may all be busy with archives."""


async def split_body(content_type: str, body: bytes) -> list[Field]:
    """`read_fields`, without holding the event loop up."""
    if len(body) > _AT_ONCE_BYTES and _media_type(content_type).lower() in {FORM, MULTIPART}:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(_threads, read_fields, content_type, body)
    return read_fields(content_type, body)


def read_fields(content_type: str, body: bytes) -> list[Field]:
    """Split a body into fields. Raises `FlambeauError` (INVALID_INPUT) for too many parts."""
    media_type = _media_type(content_type)
    if media_type.lower() == FORM:
        return _urlencoded(body)
    if media_type.lower() == MULTIPART:
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if boundary:
            return _multipart(boundary, body)
    return [Field("body", media_type, body)]


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip()


def _urlencoded(body: bytes) -> list[Field]:
    """Bytes by name, the last of a name counts. (`parse_qsl` takes no bytes beyond ASCII.)

    As in TorchServe, what follows the last `&` is no field without a `=`: JSON that curl sent as a
    form gives an empty row, not a field of that name.
    """
    if body.count(b"&") >= limits.MAX_PARTS:
        raise _too_many()
    fields: dict[str, Field] = {}
    *pairs, last = body.split(b"&")
    for pair in [*pairs, last] if b"=" in last else pairs:
        name, equals, value = (_unquote(part) for part in pair.partition(b"="))
        key = name.decode("utf-8", "replace")
        if key or equals:
            fields[key] = Field(key, "", value)
    return list(fields.values())


def _unescape(match: re.Match[bytes]) -> bytes:
    return _BYTES[match.group()]


def _unquote(text: bytes) -> bytes:
    """Percent escapes decoded, a slice at a time: one of 6 MB would stop the whole process."""
    text = text.replace(b"+", b" ")
    parts: list[bytes] = []
    start = 0
    while start < len(text):
        end = start + _SLICE_BYTES
        escape = text.find(b"%", end - 2, end)  # it may reach over the end
        if escape >= 0 and end < len(text):
            end = escape
        parts.append(_ESCAPE.sub(_unescape, text[start:end]))
        start = end
    return b"".join(parts)


class _Parts:
    """Collects what the multipart parser reports."""

    def __init__(self) -> None:
        self.fields: dict[str, Field] = {}
        self._count = 0
        self._begin()

    def _begin(self) -> None:
        self._count += 1
        if self._count > limits.MAX_PARTS + 1:
            raise _too_many()
        self._headers: dict[bytes, bytes] = {}
        self._name = bytearray()
        self._value = bytearray()
        self._data = bytearray()

    def callbacks(self) -> dict[str, Callable[..., None]]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_part_data": lambda data, start, end: self._data.extend(data[start:end]),
            "on_part_end": self._end_part,
        }

    def _end_header(self) -> None:
        self._headers[bytes(self._name).lower()] = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _end_part(self) -> None:
        options = parse_options_header(self._headers.get(b"content-disposition"))[1]
        name = options.get(b"name")
        if name is None:
            return
        kind = ""  # a plain field is bytes for the handler, whatever its part claims
        if b"filename" in options:
            part_type = self._headers.get(b"content-type", b"application/octet-stream")
            kind = _media_type(part_type.decode("latin-1"))
        key = name.decode("utf-8", "replace")
        self.fields[key] = Field(key, kind, bytes(self._data))


def _multipart(boundary: bytes, body: bytes) -> list[Field]:
    """Parts by name, the last of a name counts; garbage gives no fields, as in TorchServe."""
    parts = _Parts()
    try:
        parser = MultipartParser(boundary, cast("dict[str, object]", parts.callbacks()))  # type: ignore[arg-type]  # its TypedDict has no public name
        parser.write(body)
        parser.finalize()
    except FormParserError:
        return []
    return list(parts.fields.values())


def _too_many() -> FlambeauError:
    return FlambeauError(
        ErrorKind.INVALID_INPUT, f"A form may have at most {limits.MAX_PARTS} fields."
    )
