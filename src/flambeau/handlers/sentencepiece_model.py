"""Reads SentencePiece models: the pieces with their scores, and how texts are normalised.

The file is a protocol buffer of a few fields, so that neither sentencepiece nor protobuf is needed.
"""

import struct
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path

import msgspec

from flambeau.errors import LoadError


class PieceKind(IntEnum):
    """What a piece is for; the numbers are the file format's."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Piece(msgspec.Struct, frozen=True):
    """A piece of the vocabulary; its place in the list is its id."""

    text: str
    score: float
    kind: int


class SentencePieceModel(msgspec.Struct, frozen=True):
    """What a tokenizer needs of a model file. `charsmap` is its compiled normalisation, or empty."""

    pieces: list[Piece]
    byte_pairs: bool
    """Trained by merging pairs; else a unigram language model."""
    unk_id: int
    unk_piece: str
    charsmap: bytes


# Field numbers of ModelProto, its SentencePiece, TrainerSpec and NormalizerSpec.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE_TEXT, _PIECE_SCORE, _PIECE_KIND = 1, 2, 3
_MODEL_TYPE, _UNK_ID, _UNK_PIECE = 3, 40, 45
_CHARSMAP = 2
_UNIGRAM, _BPE = 1, 2

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Value = int | bytes


def read_sentencepiece_model(path: Path) -> SentencePieceModel:
    """Raises `LoadError` where the file is no SentencePiece model, or one of words or characters."""
    pieces: list[Piece] = []
    trainer: dict[int, Value] = {}
    normalizer: dict[int, Value] = {}
    try:
        for number, value in _fields(path.read_bytes()):
            if number == _PIECES:
                pieces.append(_piece(_bytes(value)))
            elif number == _TRAINER:
                trainer = dict(_fields(_bytes(value)))
            elif number == _NORMALIZER:
                normalizer = dict(_fields(_bytes(value)))
    except (ValueError, IndexError, struct.error) as error:
        raise LoadError(f"{path.name} is no SentencePiece model.") from error
    model_type = trainer.get(_MODEL_TYPE, _UNIGRAM)
    if not pieces or model_type not in (_UNIGRAM, _BPE):
        raise LoadError(f"{path.name} is no SentencePiece model of unigrams or byte pairs.")
    return SentencePieceModel(
        pieces,
        byte_pairs=model_type == _BPE,
        unk_id=_int(trainer.get(_UNK_ID, 0)),
        unk_piece=_bytes(trainer.get(_UNK_PIECE, b"<unk>")).decode(),
        charsmap=_bytes(normalizer.get(_CHARSMAP, b"")),
    )


def _piece(data: bytes) -> Piece:
    fields = dict(_fields(data))
    (score,) = struct.unpack("<f", _bytes(fields.get(_PIECE_SCORE, bytes(4))))
    kind = _int(fields.get(_PIECE_KIND, PieceKind.NORMAL))
    return Piece(_bytes(fields.get(_PIECE_TEXT, b"")).decode(), score, kind)


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """Field numbers and values of a message; numbers of fixed width stay bytes."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        wire_type = key & 7
        if wire_type == _VARINT:
            value, position = _varint(data, position)
            yield key >> 3, value
            continue
        if wire_type == _BYTES:
            length, position = _varint(data, position)
        elif wire_type in (_FIXED32, _FIXED64):
            length = 4 if wire_type == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire_type}")
        if position + length > len(data):
            raise ValueError("the file ends within a field")
        yield key >> 3, data[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _bytes(value: Value) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where a text should be")  # noqa: TRY004 - the file is wrong
    return value


def _int(value: Value) -> int:
    if not isinstance(value, int):
        raise ValueError("a text where a number should be")  # noqa: TRY004 - as above
    return value
