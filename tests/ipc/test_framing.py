"""Frames: whole messages from bytes that are cut anywhere, and nothing from bytes that are none."""

import msgspec
import pytest

from flambeau.ipc.framing import HEADER, MAX_FRAME_BYTES, FrameDecoder, FramingError, encode
from flambeau.ipc.messages import Done, FromWorker, Log, Output, Run, Stop, ToWorker
from flambeau.types import Chunk, Field, InferenceRequest

MESSAGES: list[msgspec.Struct] = [
    Output(1, 0, Chunk(b"\x00\xff" * 300, last=False, headers={"a": "ü"})),
    Output(1, 0, Chunk(b"")),
    Log(20, "stdout", "two\nlines"),
    Done(1, 0.25),
]


def decoder(union: object = FromWorker) -> FrameDecoder[object]:
    return FrameDecoder(union)  # type: ignore[arg-type]  # a union is no `type`


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 7, 64, 10_000])
def test_messages_survive_any_cut(step: int) -> None:
    """The same messages come out, in order, whatever the pieces' length."""
    stream = b"".join(encode(message) for message in MESSAGES)
    reader, read = decoder(), []
    for start in range(0, len(stream), step):
        read += list(reader.feed(stream[start : start + step]))
    assert read == MESSAGES
    assert reader.pending == 0


def test_bytes_stay_bytes() -> None:
    """A request's body crosses unchanged, whatever it holds."""
    body = bytes(range(256)) * 40
    run = Run(
        3, [InferenceRequest("id", {"h": "v"}, [Field("body", "", body), Field("b", "x", b"")])]
    )
    assert list(decoder(ToWorker).feed(encode(run))) == [run]


def test_half_a_frame_yields_nothing() -> None:
    """What a peer that died mid-frame has sent is never a message."""
    frame = encode(MESSAGES[0])
    for cut in range(len(frame)):
        reader = decoder()
        assert list(reader.feed(frame[:cut])) == []
        assert reader.pending == cut


def test_a_length_above_the_cap_is_refused_from_its_header_alone() -> None:
    """Four bytes are enough to refuse: nothing is allocated or waited for."""
    with pytest.raises(FramingError, match=str(MAX_FRAME_BYTES + 1)):
        list(decoder().feed(HEADER.pack(MAX_FRAME_BYTES + 1)))


def framed(payload: bytes) -> bytes:
    return HEADER.pack(len(payload)) + payload


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"GET / HTTP/1.1",
        msgspec.msgpack.encode(["unknown", 1]),
        msgspec.msgpack.encode(["done", "not a number", 0.5]),
        msgspec.msgpack.encode({"done": 1}),
        msgspec.msgpack.encode(["done", 1]),
        msgspec.msgpack.encode(["done", 1, 0.5])[:-1],
        b"\x91\xa8w\xd1y\xa2sith",
        b"\x91" * 5000,
        b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00.",
    ],
    ids=[
        "empty",
        "reserved",
        "http",
        "tag",
        "type",
        "map",
        "short",
        "cut",
        "utf-8",
        "nested",
        "pickle",
    ],
)
def test_what_does_not_fit_the_schema_is_an_error(payload: bytes) -> None:
    """Garbage, unknown tags and wrong types raise, and the message before them still came."""
    reader = decoder()
    stream = reader.feed(encode(MESSAGES[3]) + framed(payload))
    assert next(stream) == MESSAGES[3]
    with pytest.raises(FramingError):
        next(stream)


def test_a_message_of_the_other_direction_is_refused() -> None:
    """A worker cannot send what only the server may."""
    with pytest.raises(FramingError):
        list(decoder().feed(encode(Stop())))
