"""What every engine shares: its contract, its records, and how rows are put together.

An engine knows token ids and arrays, no texts and no tasks' answers. It takes sequences of any
lengths and gives each one's outputs without padding, so that how it pads, packs or cuts a batch is
its own affair.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from flambeau.types import Precision, TaskName

if TYPE_CHECKING:
    from flambeau.engines.generation import Session

logger = logging.getLogger(__name__)

Outputs = dict[str, npt.NDArray[np.float32]]
"""One sequence's outputs by name: `[labels]` or, for one value per token, `[tokens, …]`."""


class TokenSequence(msgspec.Struct, frozen=True):
    """One row for the model. `type_ids` is empty where the tokenizer has none.

    What is no text has `arrays` in place of ids, named as the model's `forward` names them, without
    the batch's axis; `cost` is about how many tokens would take as long. `wanted` are the tokens
    whose outputs are needed, of a model that gives some per token; None: all. Outputs then are
    `[wanted, …]`.
    """

    ids: list[int]
    type_ids: list[int] = []
    arrays: Mapping[str, npt.NDArray[np.float32]] = {}
    cost: int = 0
    wanted: list[int] | None = None

    def __len__(self) -> int:
        return self.cost or len(self.ids)

    @property
    def shape(self) -> tuple[tuple[int, ...], ...]:
        """Equal for rows whose arrays fit into one batch."""
        return tuple(array.shape for array in self.arrays.values())


class ModelSource(msgspec.Struct, frozen=True):
    """Which model an engine is to load.

    `file` is the manifest's `serializedFile`, if it exists. `outputs` are the names of the arrays
    in the order of the model's output; none for generation. `pad_id` None: rows cannot be padded.
    `gpu` is a visible device's index. `max_length` is the longest row that will ever come.
    `precision` None: fp32 on a CPU; on a GPU the checkpoint's half precision, else bf16. `threads`
    is the worker's share of the cores, 0 for the framework's own choice.
    """

    model_dir: Path
    task: TaskName
    outputs: tuple[str, ...] = ()
    file: Path | None = None
    gpu: int | None = None
    pad_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    max_length: int = 512
    precision: Precision | None = None
    threads: int = 0

    @property
    def per_token(self) -> bool:
        """Whether the model gives values for each token and not for the text as a whole."""
        return per_token(self.task)

    @property
    def wide(self) -> bool:
        """Whether it gives, for a token, a number for each one of the vocabulary."""
        return self.task == "fill-mask"

    @property
    def generates(self) -> bool:
        """Whether the model's answers are tokens, one after the other."""
        return self.task in _GENERATING


_WHOLE = frozenset(
    {
        "text-classification",
        "zero-shot-classification",
        "text-ranking",
        "image-classification",
        "automatic-speech-recognition",
    }
)
"""The tasks whose models do not give one value or vector for each token of their input."""


def per_token(task: TaskName) -> bool:
    """Whether a task's models give values for each token and not for the input as a whole."""
    return task not in _WHOLE


MEDIA_TASKS = frozenset({"image-classification", "automatic-speech-recognition"})
"""The tasks whose models read arrays and no tokens."""

_GENERATING = frozenset({"text-generation", "text2text-generation", "summarization", "translation"})


class RowLimits(msgspec.Struct, frozen=True):
    """How rows may share a forward pass: tokens in all with padding, and the padding's share.

    `packed`: rows stand one after the other, so that there is no padding.
    """

    max_tokens: int
    max_padding: float
    packed: bool = False


class Engine(Protocol):
    """Loads one model on construction and runs it. Not thread-safe.

    `padding` counts the tokens that were computed only to make rows equally long. `limits` say
    which rows should run together, None: none. `precision` is what it computes in, such as `fp32`.

    `forks` (False where a class says nothing): on a CPU, loading it leaves no thread behind and
    depends on no number of threads, so that workers can be forked once it is loaded.
    """

    forks: bool
    device: str
    padding: int
    precision: Precision

    @property
    def limits(self) -> RowLimits | None:
        """Which rows should share a forward pass now."""

    def __init__(self, source: ModelSource) -> None:
        """Load the model. Raises `LoadError` with the real cause.

        Weights and what is computed from them may be shared by several processes, each of which
        calls `begin`: with `forks`, a model is loaded with one thread and then forked.
        """

    def begin(self, threads: int) -> None:
        """Get ready to run in this process with so many threads, which torch's are set to by now.

        Called once; 0 threads: the framework's own choice. Whatever depends on the number, or does
        not survive a fork, belongs here.
        """

    def forward(self, sequences: Sequence[TokenSequence]) -> list[Outputs]:
        """Each sequence's outputs, in the order given. Raises what the framework raises."""

    def session(self) -> "Session":
        """A new session to continue prompts in. Raises `NotImplementedError` without a decoder."""


CPU_LIMITS = RowLimits(max_tokens=512, max_padding=0.1)
"""A core is busy from about 512 tokens on, so that little is gained by more padding."""
GPU_LIMITS = RowLimits(max_tokens=16_384, max_padding=0.5)

GENERATION_LIMITS = RowLimits(max_tokens=8_192, max_padding=0.6)
"""Prompts are read once, then every row costs one token per step: padding matters less."""


def group_by_length(lengths: Sequence[int], limits: RowLimits) -> list[list[int]]:
    """Split rows into groups for one forward pass each; gives indices into `lengths`.

    Neighbours in length go together, the shortest first: who asks little need not wait for the
    others. A group holds at least one row.
    """
    groups: list[list[int]] = []
    total = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[index]
        total += length
        if groups and _fits(len(groups[-1]) + 1, length, total, limits):
            groups[-1].append(index)
        else:
            groups.append([index])
            total = length
    return groups


def _fits(rows: int, longest: int, total: int, limits: RowLimits) -> bool:
    """Whether so many rows of `total` tokens, none longer than `longest`, may run together."""
    if limits.packed:
        return total <= limits.max_tokens
    padded = longest * rows
    return padded <= limits.max_tokens and padded - total <= limits.max_padding * padded


def pad_rows(
    rows: Sequence[Sequence[int]], fill: int, *, width: int = 0, left: bool = False
) -> npt.NDArray[np.int64]:
    """Rows as one array `[rows, longest]`, filled up to the longest or to `width`."""
    width = max(width, max(map(len, rows)))
    padded = np.full((len(rows), width), fill, dtype=np.int64)
    for target, row in zip(padded, rows, strict=True):
        if left:
            target[width - len(row) :] = row
        else:
            target[: len(row)] = row
    return padded


def count_padding(rows: Sequence[TokenSequence], width: int = 0) -> int:
    """Tokens that `pad_rows` adds."""
    lengths = [len(row) for row in rows]
    return max(width, max(lengths)) * len(lengths) - sum(lengths)


def row_mask(
    rows: Sequence[Sequence[int]], *, width: int = 0, left: bool = False
) -> npt.NDArray[np.int64]:
    """The attention mask of `pad_rows`: 1 for a token, 0 for padding."""
    return pad_rows([[1] * len(row) for row in rows], 0, width=width, left=left)


def pick_device(gpu: int | None, *, cuda_available: bool) -> str:
    """`cuda:<gpu>` where there is one, else `cpu`."""
    if gpu is not None and not cuda_available:
        logger.warning("GPU %d was asked for, but the framework sees none: using the CPU.", gpu)
    return f"cuda:{gpu}" if gpu is not None and cuda_available else "cpu"


LARGEST_OUTPUT = 256 << 20
"""Bytes that the outputs of a pass may have where many numbers are given for each token."""


def narrowed(limits: RowLimits, width: int, largest: int = LARGEST_OUTPUT) -> RowLimits:
    """Limits that suit a model that gives `width` numbers for each token, such as a vocabulary's."""
    most = max(1, largest // (4 * max(1, width)))
    return msgspec.structs.replace(limits, max_tokens=min(limits.max_tokens, most))


def forward_in_groups(
    sequences: Sequence[TokenSequence],
    limits: RowLimits | None,
    run: Callable[[list[TokenSequence]], dict[str, npt.NDArray[np.float32]]],
    *,
    per_token: bool,
    chosen: bool = False,
) -> list[Outputs]:
    """Run sequences of near lengths together; cut the padding off and put outputs in order.

    `run` gives arrays `[rows, …]`. No limits: one row at a time. `per_token`: the second axis is
    the row's tokens, or, for packed rows, the first is the tokens of all. `chosen`: of rows that
    want some tokens' outputs alone, the first axis is those tokens of all.
    """
    if limits is None:
        groups = [[index] for index in range(len(sequences))]
    else:
        groups = group_by_length([len(sequence) for sequence in sequences], limits)
    packed = limits is not None and limits.packed
    outputs: dict[int, Outputs] = {}
    for group in groups:
        rows = [sequences[index] for index in group]
        arrays = run(rows)
        if per_token and only_some(rows):
            if not chosen:
                places = wanted_places(rows, packed=packed)
                arrays = {
                    name: array[places[1] if packed else places] for name, array in arrays.items()
                }
            made = _split(arrays, [len(row.wanted or ()) for row in rows], True, True)
        else:
            made = _split(arrays, [len(row) for row in rows], per_token, packed)
        outputs.update(zip(group, made, strict=True))
    return [outputs[index] for index in range(len(sequences))]


def _split(
    arrays: dict[str, npt.NDArray[np.float32]], lengths: list[int], per_token: bool, packed: bool
) -> Iterator[Outputs]:
    """Each row's outputs from those of all."""
    start = 0
    for row, length in enumerate(lengths):
        if not per_token:
            yield {name: array[row] for name, array in arrays.items()}
        elif packed:
            yield {name: array[start : start + length] for name, array in arrays.items()}
        else:
            yield {name: array[row][:length] for name, array in arrays.items()}
        start += length


def only_some(rows: Sequence[TokenSequence]) -> bool:
    """Whether of all of these rows the outputs of some tokens alone are wanted."""
    return all(row.wanted is not None for row in rows)


def wanted_places(
    rows: Sequence[TokenSequence], *, packed: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows and columns of the tokens that are wanted; packed rows are all one row."""
    counts = [len(row.wanted or ()) for row in rows]
    columns = np.array([place for row in rows for place in row.wanted or ()], dtype=np.int64)
    if not packed:
        return np.repeat(np.arange(len(rows)), counts), columns
    starts = np.cumsum([0, *map(len, rows)])[:-1]
    return np.zeros(len(columns), np.int64), columns + np.repeat(starts, counts)
