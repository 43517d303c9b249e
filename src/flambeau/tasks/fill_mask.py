"""Masked words: the tokens that most likely stand where a text has its mask."""

import logging
from collections.abc import Sequence
from typing import Annotated, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt
from typing_extensions import override

from flambeau.errors import LoadError
from flambeau.tasks.base import (
    AnswerOptions,
    BaseParameters,
    Encoding,
    ForwardTask,
    Head,
    Inputs,
    RowOutputs,
    RowValue,
    TextInput,
    Vocabulary,
    Window,
    largest,
)
from flambeau.types import JsonValue, TaskName

logger = logging.getLogger(__name__)

MAX_TOP_K = 1_000
MAX_MASKS = 100
"""Masks in one text: a probability for each token of a vocabulary, 1 MB in large ones, is computed
for each."""

MAX_WORK = 4_000_000
"""Characters in the answers of one request: about four seconds of work."""
_WINDOW_CHARS = 4_096

Floats = npt.NDArray[np.float32]


_Targets = Annotated[
    list[str],
    msgspec.Meta(max_length=MAX_TOP_K, description=f"a list of at most {MAX_TOP_K} texts"),
]


class MaskParameters(BaseParameters, frozen=True, kw_only=True):
    """`targets` are the only tokens to choose from; probabilities stay those among all tokens."""

    top_k: Annotated[int, msgspec.Meta(ge=1, le=MAX_TOP_K)] = 5
    targets: str | _Targets | None = None


class Mask(msgspec.Struct, frozen=True):
    """A mask: the window that it is read in, its place there, and each token's logit."""

    window: Encoding
    place: int
    logits: Floats


class Task(ForwardTask):
    """The `top_k` best tokens for each mask of a text, as the Transformers pipeline gives them.

    Of a text with one mask a list of tokens, else a list of those, in the masks' order. Legacy: the
    best token's text alone.
    """

    name: ClassVar[TaskName] = "fill-mask"
    example: ClassVar[JsonValue] = "Flambeau carries the [MASK]."
    accepts: ClassVar[str] = (
        'a text with the model\'s mask token, {"text": "..."}, or a JSON list of texts'
    )
    unwraps_one: ClassVar[bool] = True
    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    Parameters: ClassVar[type[BaseParameters]] = MaskParameters

    def __init__(self, head: Head) -> None:
        super().__init__(head)
        found = head.vocabulary.mask if head.vocabulary is not None else "[MASK]"
        if found is None:
            raise LoadError(
                "The tokenizer has no mask token, so that nothing can be filled in. If it has one by"
                " another name, set mask_token in tokenizer_config.json."
            )
        self.mask = found

    @override
    def sample(self) -> JsonValue:
        return str(self.example).replace("[MASK]", self.mask)

    @override
    def read_entry(self, value: RowValue) -> TextInput:
        entry = super().read_entry(value)
        assert isinstance(entry, TextInput)
        masks = self._count(entry)
        if not masks:
            raise self.invalid(
                f"the text has no {self.mask}, which stands for the word to be found"
            )
        if masks > MAX_MASKS:
            raise self.invalid(f"the text has {masks} {self.mask}; at most {MAX_MASKS} are allowed")
        return entry

    @override
    def check(self, inputs: Inputs) -> None:
        assert isinstance(inputs.parameters, MaskParameters)
        targets = _as_list(inputs.parameters.targets)
        self._check_work(inputs, len(targets) if targets is not None else MAX_TOP_K)
        if targets is None or self.head.vocabulary is None:
            return
        if not targets or not self._target_ids(targets):
            raise self.invalid(
                "'targets' must have a token that the model can put in, and none of them is one"
                if targets
                else "'targets' is an empty list"
            )
        foreign = sum(self.head.vocabulary.find(target) is None for target in targets)
        if foreign:
            logger.warning(
                "%d of %d targets are no tokens of the vocabulary: the first token of each stands"
                " for it.",
                foreign,
                len(targets),
            )

    def _check_work(self, inputs: Inputs, choices: int) -> None:
        """Each of a mask's answers has the whole text with its token in it."""
        each = min(inputs.parameters.top_k, choices)  # type: ignore[attr-defined]
        work = sum(
            self._count(entry) * each * min(len(entry.text) + len(entry.pair or ""), _WINDOW_CHARS)
            for entry in inputs.entries
        )
        if work > MAX_WORK:
            raise self.invalid(
                f"'top_k' is {each}, so that the answers of all masks would have {work} characters;"
                f" one request's may have {MAX_WORK}: set a smaller one, or send fewer texts"
            )

    @override
    def wanted(self, encoding: Encoding) -> list[int]:
        """The masks."""
        return [
            place for place, token in enumerate(encoding.ids) if token == self._vocabulary.mask_id
        ]

    @override
    def postprocess(
        self, rows: Sequence[RowOutputs], entry: TextInput, options: AnswerOptions
    ) -> JsonValue:
        masks = self._masks(rows[0].windows)
        if len(masks) < self._count(entry):
            raise self.invalid(
                f"the text is longer than the model reads, and what was cut off had"
                f" {self._count(entry) - len(masks)} of its {self._count(entry)} {self.mask}: shorten"
                ' it, or set truncation to "window"'
            )
        targets = _as_list(options.parameters.targets)
        ids = None if targets is None else self._target_ids(targets)
        answers = [self._fill(mask, options, ids, alone=len(masks) == 1) for mask in masks]
        return answers[0] if len(answers) == 1 else answers

    @property
    def _vocabulary(self) -> Vocabulary:
        assert self.head.vocabulary is not None, "a model's tokenizer comes with it"
        return self.head.vocabulary

    def _count(self, entry: TextInput) -> int:
        return entry.text.count(self.mask) + (entry.pair or "").count(self.mask)

    def _target_ids(self, targets: Sequence[str]) -> list[int]:
        """The tokens that targets are or begin with, each once."""
        found = (
            exact
            if (exact := self._vocabulary.find(target)) is not None
            else self._vocabulary.first(target)
            for target in targets
        )
        return list(dict.fromkeys(index for index in found if index is not None))

    def _masks(self, windows: Sequence[Window]) -> list[Mask]:
        """Each mask of the text, in order, in the window that shows most of what is around it."""
        best: dict[tuple[int, int], tuple[int, Mask]] = {}
        for window in windows:
            encoding = window.encoding
            rows = zip(self.wanted(encoding), window.outputs["logits"], strict=True)
            for place, logits in rows:
                around = min(place, len(encoding.ids) - 1 - place)
                key = encoding.parts[place] or 0, encoding.offsets[place][0]
                if key not in best or around > best[key][0]:
                    best[key] = around, Mask(encoding, place, logits)
        return [best[key][1] for key in sorted(best)]

    def _fill(
        self, mask: Mask, options: AnswerOptions, targets: Sequence[int] | None, *, alone: bool
    ) -> JsonValue:
        """The best tokens for a mask. `alone`: it is its text's only one."""
        parameters = options.parameters
        size = len(mask.logits)
        probabilities = np.exp(mask.logits - mask.logits.max())
        probabilities /= probabilities.sum()
        tokens = np.arange(size)
        if targets is not None:
            tokens = np.array([each for each in targets if each < size], np.intp)
        elif parameters.top_k > size:
            raise self.invalid(
                f"'top_k' must be a whole number from 1 to {size}, which is as many tokens as the"
                f" model knows, not {parameters.top_k}"
            )
        if options.shape == "legacy":
            return self._vocabulary.decode([int(tokens[probabilities[tokens].argmax()])])
        best = tokens[largest(probabilities[tokens], parameters.top_k)]
        return [
            {
                "score": score,
                "token": token,
                "token_str": self._vocabulary.decode([token]),
                "sequence": self._sequence(mask, token, alone),
            }
            for token, score in zip(best.tolist(), probabilities[best].tolist(), strict=True)
        ]

    def _sequence(self, mask: Mask, token: int, alone: bool) -> str:
        """The window's text with this token in it; special tokens stay where other masks do."""
        ids = [*mask.window.ids[: mask.place], token, *mask.window.ids[mask.place + 1 :]]
        kept = [each for each in ids if each != self._vocabulary.pad_id]
        return self._vocabulary.decode(kept, skip_special=alone)


def _as_list(targets: str | list[str] | None) -> list[str] | None:
    return [targets] if isinstance(targets, str) else targets
