"""Channels over real socket pairs: order, ends, garbage, descriptors."""

import asyncio
import os
import socket
import threading

import pytest

from flambeau.ipc.channel import AsyncChannel, BlockingChannel, send_with_descriptor
from flambeau.ipc.framing import HEADER, FramingError, encode
from flambeau.ipc.messages import Done, Fork, Log


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


class Heard:
    """What an async channel told."""

    def __init__(self) -> None:
        self.messages: list[Done] = []
        self.closed = 0
        self.ended = asyncio.Event()

    def on_closed(self) -> None:
        self.closed += 1
        self.ended.set()

    async def connect(self, sock: socket.socket) -> AsyncChannel[Done]:
        return await AsyncChannel.connect(sock, Done, self.messages.append, self.on_closed)


async def test_messages_arrive_in_order_and_the_end_is_told_once() -> None:
    """Everything that was sent before the peer left is heard, then one end."""
    ours, theirs = pair()
    heard = Heard()
    await heard.connect(ours)
    with theirs:
        for batch in range(200):
            theirs.sendall(encode(Done(batch, 0.0)))
    await asyncio.wait_for(heard.ended.wait(), 60)
    assert [message.batch for message in heard.messages] == list(range(200))
    assert heard.closed == 1


@pytest.mark.parametrize(
    "rest", [encode(Done(2, 0.0))[:-1], HEADER.pack(0xFFFFFFFF), b"\0\0\0\1\xc1"]
)
async def test_a_broken_stream_ends_the_channel(rest: bytes) -> None:
    """Half a frame and death, an impossible length, garbage: the good message, then the end."""
    ours, theirs = pair()
    heard = Heard()
    await heard.connect(ours)
    with theirs:
        theirs.sendall(encode(Done(1, 0.0)) + rest)
        if rest == encode(Done(2, 0.0))[:-1]:
            theirs.shutdown(socket.SHUT_WR)
        await asyncio.wait_for(heard.ended.wait(), 60)
    assert heard.messages == [Done(1, 0.0)]
    assert heard.closed == 1


async def test_sending_after_the_end_is_harmless() -> None:
    """A reply to a peer that is gone is dropped."""
    ours, theirs = pair()
    heard = Heard()
    channel = await heard.connect(ours)
    theirs.close()
    await asyncio.wait_for(heard.ended.wait(), 60)
    channel.send(Done(1, 0.0))
    channel.close()


async def test_the_server_end_sends_more_than_a_socket_buffer() -> None:
    """Frames larger than the kernel's buffer arrive whole at a blocking reader."""
    ours, theirs = pair()
    heard = Heard()
    channel = await heard.connect(ours)
    text = "x" * 3_000_000
    reader: BlockingChannel[Log] = BlockingChannel(theirs, Log)
    channel.send(Log(20, "a", text))
    received = await asyncio.to_thread(next, reader.receive())
    assert received == Log(20, "a", text)
    reader.close()
    await asyncio.wait_for(heard.ended.wait(), 60)


def test_threads_may_share_the_blocking_end() -> None:
    """Frames of several threads are never mixed."""
    ours, theirs = pair()
    sender: BlockingChannel[Log] = BlockingChannel(ours, Log)

    def send(number: int) -> None:
        for _ in range(50):
            sender.send(Log(number, "t", str(number) * 5000))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    reader: BlockingChannel[Log] = BlockingChannel(theirs, Log)
    stream = reader.receive()
    for _ in range(200):
        log = next(stream)
        assert log.message == str(log.level) * 5000
    for thread in threads:
        thread.join()
    sender.close()
    assert list(stream) == []
    reader.close()


def test_a_blocking_reader_ends_when_the_peer_dies_within_a_frame() -> None:
    """Half a frame is dropped."""
    ours, theirs = pair()
    reader: BlockingChannel[Done] = BlockingChannel(ours, Done)
    theirs.sendall(encode(Done(1, 0.0)) + encode(Done(2, 0.0))[:-2])
    theirs.close()
    assert list(reader.receive()) == [Done(1, 0.0)]
    reader.close()


def test_each_descriptor_comes_with_its_own_message() -> None:
    """Several requests may wait in the socket; descriptors are not mixed up or merged."""
    ours, theirs = pair()
    pipes = [os.pipe() for _ in range(3)]
    for number, (_, write_end) in enumerate(pipes):
        send_with_descriptor(ours, Fork(number), write_end)
        os.close(write_end)
    reader: BlockingChannel[Fork] = BlockingChannel(theirs, Fork)
    for number, (read_end, _) in enumerate(pipes):
        received = reader.receive_with_descriptor()
        assert received is not None
        message, descriptor = received
        assert message == Fork(number)
        assert descriptor is not None
        os.write(descriptor, b"%d" % number)
        os.close(descriptor)
        assert os.read(read_end, 10) == b"%d" % number
        assert os.read(read_end, 10) == b"", "the last write end is closed"
        os.close(read_end)
    ours.close()
    assert reader.receive_with_descriptor() is None
    reader.close()


def test_a_descriptor_message_with_an_impossible_length_is_refused() -> None:
    """The zygote never allocates what a broken peer announces."""
    ours, theirs = pair()
    ours.sendall(HEADER.pack(0xFFFFFFFF))
    reader: BlockingChannel[Fork] = BlockingChannel(theirs, Fork)
    with pytest.raises(FramingError):
        reader.receive_with_descriptor()
    ours.close()
    reader.close()
