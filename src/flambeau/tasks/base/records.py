"""What tasks, tokenizers and engines hand each other."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from flambeau.tasks.base.pooling import PoolingMode

Arrays = Mapping[str, npt.NDArray[np.float32]]
"""One row's model outputs by name, without padding."""

Truncation = Literal["cut", "window", "refuse"]
"""What happens to a text that is longer than the model reads: its rest is left out, it is read in
overlapping windows whose answers are merged, or the request is refused."""

PairTruncation = Literal["longest_first", "only_first", "only_second"]
"""Which part of a pair is cut, or read in windows, where the two together are too long."""


class Vocabulary(Protocol):
    """What a task may ask of a model's tokenizer."""

    @property
    def mask(self) -> str | None:
        """The token that stands for a word to be found, as users write it."""

    @property
    def mask_id(self) -> int | None:
        """Its id."""

    @property
    def cls_id(self) -> int | None:
        """The token that stands for a text as a whole."""

    @property
    def pad_id(self) -> int | None:
        """The token that fills short rows; not any other that may do so here."""

    def find(self, token: str) -> int | None:
        """The id of a token, spelled as in the vocabulary."""

    def first(self, text: str) -> int | None:
        """The first token of a text, special ones aside; None for a text without tokens."""

    def token(self, index: int) -> str:
        """The token with this id, spelled as in the vocabulary; "" where there is none."""

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """The text of tokens, as Transformers' tokenizers write it."""

    @property
    def unknown_id(self) -> int | None:
        """The token that stands for what the tokenizer does not know."""

    @property
    def marks_subwords(self) -> bool:
        """Whether tokens that go on with a word have a prefix, as WordPiece's `##`."""

    def spell(self, tokens: Sequence[str]) -> str:
        """The text that tokens stand for, however they are spelled: what a decoder makes of them."""


def read_safetensors(file: Path) -> Arrays:
    """The tensors of a safetensors file by name, in float32. Raises what the library raises."""
    from safetensors.numpy import load_file

    return {name: array.astype(np.float32) for name, array in load_file(file).items()}


class Head(msgspec.Struct, frozen=True):
    """What a task must know about the model.

    `problem_type` is the configuration's value: `single_label_classification`,
    `multi_label_classification`, `regression` or None. `config` is the model's `config.json`,
    `folder` the model's, for whatever else lies in it, and `vocabulary` its tokenizer's.
    `read_tensors` reads a file of weights in that folder; `pooling` is the archive's, where it does
    not want the model's own.
    """

    labels: list[str] = []
    problem_type: str | None = None
    config: Mapping[str, object] = {}
    folder: str | None = None
    vocabulary: Vocabulary | None = None
    read_tensors: Callable[[Path], Arrays] = read_safetensors
    pooling: PoolingMode | None = None


class Entry(msgspec.Struct, frozen=True):
    """One thing that a request asks about and that gets one answer. Tasks derive their own."""


class TextInput(Entry, frozen=True):
    """A text, or a pair such as question and context: what a tokenizer makes one row of.

    `words` are the text's where the client split it; each is tokenised on its own. `text` then is
    the words, joined by a delimiter of `delimiter` characters.

    Not `special`: the text has the special tokens that it is to have, as chat templates write them.
    """

    text: str
    pair: str | None = None
    words: list[str] | None = None
    delimiter: int = 1
    special: bool = True


class ImageInput(Entry, frozen=True):
    """A picture in a file's bytes, of any kind that Pillow reads."""

    data: bytes


MAX_RATE = 192_000
"""The most samples that sound may have a second."""


class AudioInput(Entry, frozen=True):
    """Sound: a file's bytes, or samples from -1 to 1 with how many there are a second."""

    data: bytes = b""
    samples: list[float] = []
    rate: int = 0


Row = TextInput | ImageInput | AudioInput
"""What is made one row of for the model."""


class WindowRule(msgspec.Struct, frozen=True):
    """How a row that is too long is brought to size.

    `max_length` counts a row's tokens, special ones too; None: what the model reads. `stride` is
    how many tokens two windows share; None: a quarter of a window, or, where a question stands in
    each, half of one and at most 128. For sound both count samples, and each end of a window, but
    the first's and the last's, has `stride` for context only. `side` is the end that is cut off;
    None: the one that the task names.
    """

    truncation: Truncation = "cut"
    max_length: int | None = None
    stride: int | None = None
    side: Literal["left", "right"] | None = None


class Encoding(msgspec.Struct, frozen=True):
    """One row or one window of it, tokenised; all lists have one element per token.

    `offsets` are (start, end) in characters of the part that the token comes from; `words` is the
    pre-tokenizer's word number and `parts` is 0 for the text and 1 for the pair, both None for
    special tokens. The first `shared` tokens of the part that is read in windows are those that
    the window before ends with.

    What is no text has no ids but `arrays`, as the model's `forward` takes them, without the batch's
    axis; `cost` is about how many tokens would take as long. Of sound, `offsets` has the window's
    (start, end) in samples.

    `wanted` are the tokens whose outputs the task needs, None: all. See `ForwardTask.wanted`.
    """

    ids: list[int]
    type_ids: list[int]
    tokens: list[str]
    offsets: list[tuple[int, int]]
    words: list[int | None]
    parts: list[int | None]
    shared: int = 0
    arrays: Arrays = {}
    cost: int = 0
    wanted: list[int] | None = None

    def __len__(self) -> int:
        return self.cost or len(self.ids)


class Reading(msgspec.Struct, frozen=True):
    """What of a row the model reads: one window, or several where the rule says so.

    `length` is how many tokens the whole row has. `characters_used` counts the characters of text
    and pair that any window holds. `truncated`: some are in none.
    """

    windows: list[Encoding]
    length: int
    characters_used: int
    truncated: bool = False


class Window(msgspec.Struct, frozen=True):
    """A window of a row and what the model made of it."""

    encoding: Encoding
    outputs: Arrays


class RowOutputs(msgspec.Struct, frozen=True):
    """A row and its windows, in the order of the text; at least one."""

    row: Row
    windows: list[Window]
