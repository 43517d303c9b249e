"""Embeddings: one vector for a text, as the model's own sentence-transformers modules make it."""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from typing_extensions import override

from flambeau.errors import LoadError
from flambeau.tasks.base import (
    AnswerOptions,
    BaseParameters,
    Head,
    Inputs,
    RowOutputs,
    SentenceParameters,
    SentenceTask,
    TextInput,
    short_numbers,
)
from flambeau.types import JsonValue, TaskName

Array = npt.NDArray[np.float32]
EmbeddingType = Literal["fp32", "fp16", "int8", "uint8", "binary", "ubinary"]

RANGES_FILE = "embedding_ranges.json"
"""In the model's folder: what each number of a vector goes from and to, for int8 and uint8."""
UNIT_RANGE = 6.0
"""Without that file, numbers of vectors of length 1 go from minus to plus so many times their mean
size, 1/√d. For all-MiniLM-L6-v2, whose largest numbers are 5.4 times that, cosines of int8 vectors
are then within 0.004 of the exact ones (600 built-in texts, 2026-11-29)."""
_MOST = 127
_LEVELS = 255


class Parameters(SentenceParameters, frozen=True, kw_only=True):
    """`normalize` None: vectors have length 1 where the model's own modules say so.
    `embedding_dtype` is what their numbers are rounded to, and `encoding_format` how they are sent:
    as numbers, or as base64 of their bytes (little-endian).
    """

    normalize: bool | None = None
    embedding_dtype: EmbeddingType = "fp32"
    encoding_format: Literal["float", "base64"] = "float"


class Task(SentenceTask):
    """Legacy and full answer: the vector, a list of numbers; for a list of texts a list of them."""

    name: ClassVar[TaskName] = "embeddings"
    example: ClassVar[JsonValue] = {"inputs": "Flambeau carries the torch on."}
    accepts: ClassVar[str] = 'plain text, {"inputs": "..."}, or a JSON list of texts'
    Parameters: ClassVar[type[BaseParameters]] = Parameters
    beside: ClassVar[frozenset[str]] = SentenceTask.beside | {
        "embedding_dtype",
        "encoding_format",
        "normalize",
    }

    def __init__(self, head: Head) -> None:
        super().__init__(head)
        self._ranges = _read_ranges(Path(head.folder) / RANGES_FILE) if head.folder else None

    @override
    def texts(self, entry: Any) -> Sequence[str]:
        assert isinstance(entry, TextInput)
        return [entry.text]

    @override
    def check(self, inputs: Inputs) -> None:
        super().check(inputs)
        if any(entry.pair is not None for entry in inputs.entries):
            raise self.invalid("'text_pair' is not for embeddings: a vector is of one text")
        given = inputs.parameters
        assert isinstance(given, Parameters)
        if given.embedding_dtype not in ("int8", "uint8"):
            return
        size = given.dimensions or self.modules.dimensions or self.size(given)
        normalizes = self.modules.normalizes if given.normalize is None else given.normalize
        if self._ranges is None and not normalizes:
            raise self.invalid(
                f"'embedding_dtype' is \"{given.embedding_dtype}\", for which vectors must have"
                f' length 1 ("normalize": true) or the model\'s folder a file {RANGES_FILE}'
            )
        if self._ranges is not None and size is not None and self._ranges.shape[1] < size:
            raise self.invalid(
                f"'dimensions' must be at most {self._ranges.shape[1]} for \"{given.embedding_dtype}\":"
                f" {RANGES_FILE} has no more"
            )

    @override
    def postprocess(
        self, rows: Sequence[RowOutputs], entry: Any, options: AnswerOptions
    ) -> JsonValue:
        given = options.parameters
        assert isinstance(given, Parameters)
        vector = self.embed(rows[0], given, given.normalize)
        rounded = _ROUND[given.embedding_dtype](vector, self._ranges)
        if given.encoding_format == "base64":
            return base64.b64encode(rounded.tobytes()).decode()
        numbers: list[JsonValue] = (
            short_numbers(rounded) if rounded.dtype.kind == "f" else rounded.tolist()
        )
        return numbers


def _int8(vector: Array, ranges: Array | None) -> npt.NDArray[np.int8]:
    """Numbers as -128 to 127; what is beyond their range is cut off.

    By `ranges`, `[2, at least as many as the vector]`, as sentence-transformers does it: 255 steps
    from the least to the most of each number. None: steps of one size, for vectors of length 1, so
    that cosines stay and no vector's numbers depend on another's.
    """
    if ranges is None:
        most = min(1.0, UNIT_RANGE / len(vector) ** 0.5)
        scaled = np.rint(vector * np.float32(_MOST / most))
        return np.asarray(np.clip(scaled, -_MOST, _MOST), dtype=np.int8)
    low, high = ranges[:, : len(vector)]
    steps = (high - low) / _LEVELS
    levels = np.floor((vector - low) / np.where(steps == 0, np.float32(1), steps))
    return np.asarray(np.clip(levels, 0, _LEVELS) - 128, dtype=np.int8)


def _bits(vector: Array) -> npt.NDArray[np.uint8]:
    """One bit for each number, whether it is above 0, eight in a byte, the first the highest."""
    return np.packbits(vector > 0)


def _shifted(numbers: npt.NDArray[Any], by: int, kind: type) -> npt.NDArray[Any]:
    """-128 to 127 as 0 to 255, or the reverse."""
    return (numbers.astype(np.int16) + by).astype(kind)


_ROUND: Mapping[str, Callable[[Array, Array | None], npt.NDArray[Any]]] = {
    "fp32": lambda vector, _: vector.astype("<f4", copy=False),
    "fp16": lambda vector, _: vector.astype("<f2"),
    "int8": _int8,
    "uint8": lambda vector, ranges: _shifted(_int8(vector, ranges), 128, np.uint8),
    "binary": lambda vector, _: _shifted(_bits(vector), -128, np.int8),
    "ubinary": lambda vector, _: _bits(vector),
}


class _Ranges(msgspec.Struct, frozen=True):
    min: list[float]
    max: list[float]


def _read_ranges(path: Path) -> Array | None:
    """The least and the most of each number, `[2, numbers]`; None where there is no such file."""
    if not path.is_file():
        return None
    try:
        read = msgspec.convert(json.loads(path.read_text(encoding="utf-8")), _Ranges)
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(f"{path.name} cannot be read: {error}") from error
    if len(read.min) != len(read.max) or any(map(float.__gt__, read.min, read.max)):
        raise LoadError(
            f'{path.name} must hold {{"min": […], "max": […]}}: two lists of one length, no least'
            " above its most."
        )
    return np.array([read.min, read.max], dtype=np.float32)
