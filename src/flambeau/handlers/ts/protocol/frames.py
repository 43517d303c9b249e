"""The binary frames between TorchServe's server and worker (contract.md section 9.2).

Flambeau's own processes do not speak them: they are here for handlers and tests that make or read
frames themselves. Lengths and codes are signed 32-bit big-endian numbers, and -1 ends a list.
"""

import io
import json
import struct
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["Part", "encode_response", "item_bytes", "pack_text", "parse_response"]

END_OF_LIST = struct.pack("!i", -1)


class Part(NamedTuple):
    """One request's part of a response frame."""

    request_id: str
    body: bytes
    content_type: str = ""
    status: int = 200
    phrase: str = ""
    headers: Mapping[str, str] = {}


def item_bytes(item: object) -> tuple[bytes, str]:
    """An answer's bytes, and their content type where it is certain (contract.md section 5.4).

    Bytes stay as they are, text becomes UTF-8, a tensor what `torch.save` writes, anything else
    JSON, in which NaN and infinities become null. TypeError, ValueError, RecursionError or
    OverflowError for what fits none of this.
    """
    if isinstance(item, bytes | bytearray):
        return bytes(item), ""
    if isinstance(item, str):
        return item.encode(), ""
    torch = sys.modules.get("torch")  # without it, nobody can have made a tensor
    if torch is not None and isinstance(item, torch.Tensor):
        if item.untyped_storage().nbytes() > item.numel() * item.element_size():
            item = item.detach().clone()  # a view would be saved with all that it is a view of
        buffer = io.BytesIO()
        torch.save(item, buffer)
        return buffer.getvalue(), ""
    return _json(item).encode(), "application/json"


def _json(item: object) -> str:
    try:
        return json.dumps(item, indent=2, allow_nan=False)
    except ValueError:  # perhaps a number that JSON has not
        text = json.dumps(item)
        return json.dumps(json.loads(text, parse_constant=lambda _: None), indent=2)


def pack_text(text: str | bytes) -> bytes:
    """A length and the text's bytes."""
    data = text.encode("utf-8", "replace") if isinstance(text, str) else text
    return struct.pack("!i", len(data)) + data


def encode_response(code: int, message: str, parts: list[Part]) -> bytes:
    """A whole response frame."""
    frame = struct.pack("!i", code) + pack_text(message)
    for part in parts:
        frame += pack_text(part.request_id) + pack_text(part.content_type)
        frame += struct.pack("!i", part.status) + pack_text(part.phrase)
        frame += struct.pack("!i", len(part.headers))
        for key, value in part.headers.items():
            frame += pack_text(key) + pack_text(value)
        frame += pack_text(part.body)
    return frame + END_OF_LIST


def parse_response(frame: bytes | bytearray) -> tuple[int, str, list[Part]]:
    """(code, message, parts) of a response frame; ValueError if it is none."""
    reader = _Reader(bytes(frame))
    code, message = reader.number(), reader.text()
    parts: list[Part] = []
    while (length := reader.number()) != -1:
        request_id = reader.take(length).decode("utf-8", "replace")
        content_type, status, phrase = reader.text(), reader.number(), reader.text()
        headers = {reader.text(): reader.text() for _ in range(reader.number())}
        body = reader.take(reader.number())
        parts.append(Part(request_id, body, content_type, status, phrase, headers))
    return code, message, parts


class _Reader:
    """Takes numbers and bytes off a frame."""

    def __init__(self, frame: bytes) -> None:
        self._frame = frame
        self._at = 0

    def take(self, length: int) -> bytes:
        if not 0 <= length <= len(self._frame) - self._at:
            raise ValueError(f"the frame ends at byte {len(self._frame)}, before its content does")
        self._at += length
        return self._frame[self._at - length : self._at]

    def number(self) -> int:
        value: Any = struct.unpack("!i", self.take(4))[0]
        return int(value)

    def text(self) -> str:
        return self.take(self.number()).decode("utf-8", "replace")
