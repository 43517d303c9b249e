"""Framed messages over a connected socket: a blocking end for children, an async one for the server."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Generic, cast

import msgspec
from typing_extensions import override

from flambeau.ipc.framing import (
    HEADER,
    MAX_FRAME_BYTES,
    FrameDecoder,
    FramingError,
    Message,
    encode,
)

_READ_BYTES = 256 * 1024


class BlockingChannel(Generic[Message]):
    """The end that a child process holds. `send` may be called from several threads."""

    def __init__(self, sock: socket.socket, message_type: type[Message]) -> None:
        self._socket = sock
        self._decoder: FrameDecoder[Message] = FrameDecoder(message_type)
        self._lock = threading.Lock()
        self._mute = False

    def send(self, *messages: msgspec.Struct) -> None:
        """Send messages, together. Raises `OSError` when the peer is gone, `FramingError` when one
        is too large; then nothing was sent. SystemExit after `mute`.
        """
        if self._mute:
            raise SystemExit(1)
        frames = [encode(message) for message in messages]
        with self._lock:
            self._socket.sendall(frames[0] if len(frames) == 1 else b"".join(frames))

    def receive(self) -> Iterator[Message]:
        """Yield messages until the peer closes. A peer that dies within a frame also ends it."""
        while True:
            try:
                data = self._socket.recv(_READ_BYTES)
            except ConnectionError:
                return
            if not data:
                return
            yield from self._decoder.feed(data)

    def receive_with_descriptor(self) -> tuple[Message, int | None] | None:
        """Return one message and the descriptor that came with it, or None when the peer closed."""
        header, descriptors, _flags, _address = socket.recv_fds(self._socket, HEADER.size, 1)
        descriptor = descriptors[0] if descriptors else None
        while header and len(header) < HEADER.size:
            more = self._socket.recv(HEADER.size - len(header))
            header = header + more if more else b""
        payload = self._read_exactly(self._payload_size(header)) if header else None
        if payload is None:
            return None
        return self._decoder.decode(payload), descriptor

    @staticmethod
    def _payload_size(header: bytes) -> int:
        (size,) = HEADER.unpack(header)
        if size > MAX_FRAME_BYTES:
            raise FramingError(f"a frame announces {size} bytes")
        return int(size)

    def _read_exactly(self, size: int) -> bytes | None:
        parts = bytearray()
        while len(parts) < size:
            data = self._socket.recv(size - len(parts))
            if not data:
                return None
            parts += data
        return bytes(parts)

    def mute(self) -> None:
        """Close the socket in a copy of the process, whose every attempt to send will end it."""
        self._mute = True
        self._socket.close()

    def fileno(self) -> int:
        """The socket's descriptor, for a selector."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class AsyncChannel(asyncio.Protocol, Generic[Message]):
    """The server's end: calls `on_message` for each message and `on_closed` once, at the end."""

    def __init__(
        self,
        message_type: type[Message],
        on_message: Callable[[Message], None],
        on_closed: Callable[[], None],
    ) -> None:
        self._decoder: FrameDecoder[Message] = FrameDecoder(message_type)
        self._on_message = on_message
        self._on_closed = on_closed
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def connect(
        cls,
        sock: socket.socket,
        message_type: type[Message],
        on_message: Callable[[Message], None],
        on_closed: Callable[[], None],
    ) -> "AsyncChannel[Message]":
        """Take over a connected UNIX socket."""
        loop = asyncio.get_running_loop()
        channel = cls(message_type, on_message, on_closed)
        sock.setblocking(False)
        await loop.create_unix_connection(lambda: channel, sock=sock)
        return channel

    def send(self, message: msgspec.Struct) -> None:
        """Queue one message for sending; dropped when the peer is already gone."""
        if self._transport is not None:
            self._transport.write(encode(message))

    def close(self) -> None:
        """Drop the connection; `on_closed` follows."""
        if self._transport is not None:
            self._transport.abort()

    def finish(self) -> None:
        """Send what is queued, then close the connection; `on_closed` follows."""
        if self._transport is not None:
            self._transport.close()

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    @override
    def data_received(self, data: bytes) -> None:
        try:
            for message in self._decoder.feed(data):
                self._on_message(message)
        except FramingError:
            self.close()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._on_closed()


def send_with_descriptor(sock: socket.socket, message: msgspec.Struct, descriptor: int) -> None:
    """Send one small message with a descriptor. Raises `OSError` where it cannot go out at once."""
    socket.send_fds(sock, [encode(message)], [descriptor])
