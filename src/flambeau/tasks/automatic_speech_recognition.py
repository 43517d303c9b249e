"""Speech recognition by models that give a letter for each frame of sound (CTC)."""

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from typing_extensions import override

from flambeau.errors import LoadError
from flambeau.tasks.base import (
    MAX_RATE,
    AnswerOptions,
    AudioInput,
    BaseParameters,
    Entry,
    FileTask,
    Head,
    InputKind,
    RowOutputs,
    RowValue,
    Truncation,
    WindowRule,
    read_json_object,
)
from flambeau.types import JsonValue, TaskName

MAX_LOUDNESS = 1_000
"""Samples are to be from -1 to 1; those of other scales are still sound."""

_Seconds = Annotated[float, msgspec.Meta(ge=0.5, le=60)]


class Parameters(BaseParameters, frozen=True, kw_only=True):
    """What requests may set.

    `return_timestamps`: also when each letter or word was said. `chunk_length_s`: windows of so
    many seconds, of which `stride_length_s` at each end are context only (a sixth by default).
    """

    return_timestamps: Literal["char", "word"] | None = None
    chunk_length_s: _Seconds | None = None
    stride_length_s: Annotated[float, msgspec.Meta(ge=0, le=30)] | None = None


class _Letter(msgspec.Struct):
    """A letter that was heard, and the frames that it lasted."""

    text: str
    start: int
    end: int


class Task(FileTask):
    """Legacy answer: the text. Full answer: an object, with times where they are asked for.

    The letters are those of Transformers' Wav2Vec2CTCTokenizer: of the best token of each frame,
    equal neighbours are one, and the padding token stands for none.
    """

    name: ClassVar[TaskName] = "automatic-speech-recognition"
    # A hundredth of a second of silence at 16 kHz would be shorter than the models' first layers.
    example: ClassVar[JsonValue] = {"inputs": {"raw": [0.0] * 4_000, "sampling_rate": 16_000}}
    accepts: ClassVar[str] = (
        'a sound file as the body, {"inputs": "<base64>"}, {"inputs": {"raw": [...],'
        ' "sampling_rate": 16000}}, or a JSON list of those'
    )
    max_entries: ClassVar[int] = 16
    reads: ClassVar[InputKind] = "audio"
    truncations: ClassVar[tuple[Truncation, ...]] = ("window",)
    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    Parameters: ClassVar[type[BaseParameters]] = Parameters

    def __init__(self, head: Head) -> None:
        super().__init__(head)
        self._vocabulary = _Vocabulary(head) if head.folder is not None else None

    @override
    def read_entry(self, value: RowValue) -> Entry:
        if isinstance(value, dict):
            samples = value.get("raw", value.get("array"))
            if samples is not None:
                return self._read_samples(samples, value.get("sampling_rate"))
            if value.get("audio", value.get("data")) is None:
                raise self.invalid("the object has neither 'audio' nor 'raw'")
        return AudioInput(self.read_file(value, "the sound", ("audio", "data")))

    @override
    def window_rule(self, parameters: Any) -> WindowRule:
        if parameters.chunk_length_s is None:
            return WindowRule("window")
        stride = parameters.stride_length_s
        return WindowRule(
            "window",
            round(parameters.chunk_length_s * self._rate),
            None if stride is None else round(stride * self._rate),
        )

    @override
    def postprocess(
        self, rows: Sequence[RowOutputs], entry: AudioInput, options: AnswerOptions
    ) -> JsonValue:
        assert self._vocabulary is not None
        ids = np.concatenate([*_own_frames(rows[0], self._vocabulary.frame)]).tolist()
        letters = [*self._vocabulary.letters(ids)]
        text = self._vocabulary.text(letters)
        if options.shape == "legacy":
            return text
        asked = options.parameters.return_timestamps
        if asked is None:
            return {"text": text}
        spoken = letters if asked == "char" else [*_words(letters)]
        second = self._rate / self._vocabulary.frame
        chunks: list[JsonValue] = [
            {"text": each.text, "timestamp": [each.start / second, each.end / second]}
            for each in spoken
        ]
        return {"text": text, "chunks": chunks}

    def _read_samples(self, samples: RowValue, rate: RowValue) -> Entry:
        if isinstance(rate, bool) or not isinstance(rate, int) or not 0 < rate <= MAX_RATE:
            raise self.invalid(f"'sampling_rate' must be a whole number from 1 to {MAX_RATE}")
        try:
            read = msgspec.convert(samples, list[float])
        except msgspec.ValidationError:
            raise self.invalid("'raw' must be a list of numbers") from None
        if not read or not np.abs(np.asarray(read)).max() <= MAX_LOUDNESS:  # NaN is not, either
            raise self.invalid("'raw' must be a list of numbers from -1 to 1, and not empty")
        return AudioInput(samples=read, rate=rate)

    @property
    def _rate(self) -> int:
        return self._vocabulary.rate if self._vocabulary is not None else 16_000


class _Vocabulary:
    """The letters of a model's folder: what Wav2Vec2CTCTokenizer reads of it."""

    def __init__(self, head: Head) -> None:
        folder = Path(str(head.folder))
        config = read_json_object(folder / "tokenizer_config.json")
        tokens = read_json_object(folder / "vocab.json")
        if tokens and all(isinstance(each, dict) for each in tokens.values()):
            spoken = tokens.get(str(config.get("target_lang")))
            tokens = spoken if isinstance(spoken, dict) else {}
        tokens = tokens | read_json_object(folder / "added_tokens.json")
        self._tokens = {index: token for token, index in tokens.items() if isinstance(index, int)}
        if not self._tokens:
            raise LoadError(
                "The archive has no vocab.json with the letters of its model. Add it (--extra-files)."
            )
        self._blank = _content(config.get("pad_token"), "<pad>")
        self._delimiter = _content(config.get("word_delimiter_token"), "|")
        self._space = _content(config.get("replace_word_delimiter_char"), " ")
        self._lower = config.get("do_lower_case") is True
        rate = read_json_object(folder / "preprocessor_config.json").get("sampling_rate")
        self.rate = rate if isinstance(rate, int) and rate > 0 else 16_000
        strides = head.config.get("conv_stride")
        self.frame = math.prod(strides) if isinstance(strides, list) else 320

    def letters(self, ids: Sequence[int]) -> Iterator[_Letter]:
        """What was heard, from the best token of each frame."""
        place = 0
        for index, frames in groupby(ids):
            start, place = place, place + len([*frames])
            token = self._tokens.get(index, "")
            if token != self._blank:
                yield _Letter(self._space if token == self._delimiter else token, start, place)

    def text(self, letters: Sequence[_Letter]) -> str:
        """The letters in a row."""
        text = "".join(letter.text for letter in letters).strip()
        return text.lower() if self._lower else text


def _own_frames(row: RowOutputs, frame: int) -> Iterator[npt.NDArray[np.intp]]:
    """The best token of each frame of the windows, without what two windows both have.

    `frame` is how many samples one has. As the pipeline cuts them, frame by frame.
    """
    spans = [window.encoding.offsets[0] for window in row.windows]
    for place, window in enumerate(row.windows):
        start, end = spans[place]
        best = window.outputs["logits"].argmax(axis=-1)
        # Half of what two windows share is each one's context.
        left = (spans[place - 1][1] - start) // 2 if place else 0
        right = (end - spans[place + 1][0]) // 2 if place + 1 < len(spans) else 0
        samples = end - start
        # The layers give a frame or two less at a window's end than its samples would make.
        frames = round(samples / frame)
        yield best[round(left / samples * frames) : frames - round(right / samples * frames)]


def _words(letters: Sequence[_Letter]) -> Iterator[_Letter]:
    """Letters between spaces as one."""
    for is_space, group in groupby(letters, key=lambda letter: letter.text == " "):
        word = [*group]
        if not is_space:
            yield _Letter("".join(each.text for each in word), word[0].start, word[-1].end)


def _content(token: object, default: str) -> str:
    """A token of tokenizer_config.json: a text, or an object with one."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else default
