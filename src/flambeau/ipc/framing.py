"""Frames: a 4-byte big-endian length, then one msgpack message. No I/O here.

Rules: a frame is decoded only when it is whole; a length above the cap ends the conversation
before anything is allocated; a message that does not fit the schema is an error of the peer, never
a half-read object.
"""

import struct
from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec

MAX_FRAME_BYTES = 1024 * 1024 * 1024
"""Cap on one message. Bodies and batches have smaller limits of their own, so that they always fit."""

HEADER = struct.Struct(">I")

Message = TypeVar("Message")

_encoder = msgspec.msgpack.Encoder()


class FramingError(Exception):
    """The peer sent bytes that are no message: the channel cannot be trusted any more."""


def encode(message: msgspec.Struct) -> bytearray:
    """Return the frame of one message, a new buffer. Raises `FramingError` above the cap."""
    buffer = bytearray(HEADER.size)
    _encoder.encode_into(message, buffer, HEADER.size)
    size = len(buffer) - HEADER.size
    if size > MAX_FRAME_BYTES:
        raise FramingError(f"a message of {size} bytes is over the limit of {MAX_FRAME_BYTES}")
    HEADER.pack_into(buffer, 0, size)
    return buffer


class FrameDecoder(Generic[Message]):
    """Turns a stream of bytes, cut anywhere, into messages of one union type."""

    def __init__(self, message_type: type[Message]) -> None:
        self._decoder = msgspec.msgpack.Decoder(message_type)
        self._buffer = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[Message]:
        """Yield every message that `data` completes. Raises `FramingError`."""
        buffered = bool(self._buffer)  # else whole frames are decoded where they are
        if buffered:
            self._buffer += data
            data = self._buffer
        start, received = 0, len(data)
        try:
            while received - start >= HEADER.size:
                (size,) = HEADER.unpack_from(data, start)
                if size > MAX_FRAME_BYTES:
                    raise FramingError(f"a frame announces {size} bytes")
                end = start + HEADER.size + size
                if received < end:
                    break
                with memoryview(data)[start + HEADER.size : end] as payload:
                    message = self.decode(payload)
                start = end
                yield message
        finally:
            if buffered:
                del self._buffer[:start]
            elif start < received:
                self._buffer += memoryview(data)[start:]

    def decode(self, payload: bytes | memoryview) -> Message:
        """Decode one frame's payload. Raises `FramingError`."""
        try:
            return self._decoder.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise FramingError(f"a frame is no valid message: {error}") from error

    @property
    def pending(self) -> int:
        """Bytes that wait for the rest of their frame."""
        return len(self._buffer)
