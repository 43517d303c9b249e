"""Tasks and model outputs for the tests of this folder."""

from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from flambeau import tasks
from flambeau.errors import ErrorKind, PredictionError
from flambeau.handlers.tokenizer_vocabulary import TokenizerSource, TokenizerVocabulary
from flambeau.tasks.base import (
    AnswerOptions,
    BaseTask,
    Encoding,
    ForwardTask,
    Head,
    RowOutputs,
    TextInput,
    Window,
)

FULL = AnswerOptions("full")
LEGACY = AnswerOptions("legacy")


def task(name: str, labels: list[str] | None = None, problem_type: str | None = None) -> BaseTask:
    return tasks.load(name)(Head(labels or [], problem_type))


def with_parameters(made: BaseTask, **given: Any) -> AnswerOptions:
    """Options of a request that sets these parameters."""
    return AnswerOptions("full", made.read_parameters(given))


def vocabulary(*words: str, **config: object) -> TokenizerVocabulary:
    """A tokenizer of whole words: `[PAD]`, `[UNK]`, `[CLS]`, `[SEP]`, `[MASK]`, then these."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    ids = {word: index for index, word in enumerate((*special, *words))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(special)
    return TokenizerVocabulary(TokenizerSource(tokenizer, config))


def forward_task(name: str, *args: Any) -> ForwardTask:
    made = task(name, *args)
    assert isinstance(made, ForwardTask)
    return made


def spaced_encoding(text: str, part: int = 0) -> Encoding:
    """Each word of three letters or more is two tokens; special tokens at both ends."""
    tokens, offsets, words = ["[CLS]"], [(0, 0)], [None]
    start = 0
    all_words: list[int | None] = list(words)
    for number, word in enumerate(text.split(" ")):
        pieces = [word[:2], word[2:]] if len(word) > 2 else [word]
        for piece in pieces:
            tokens.append(piece)
            offsets.append((start, start + len(piece)))
            all_words.append(number)
            start += len(piece)
        start += 1
    count = len(tokens) + 1
    return Encoding(
        ids=list(range(count)),
        type_ids=[0] * count,
        tokens=[*tokens, "[SEP]"],
        offsets=[*offsets, (0, 0)],
        words=[*all_words, None],
        parts=[None, *[part] * (count - 2), None],
    )


def answered(
    made: ForwardTask, outputs: Any, encoding: Encoding, entry: TextInput, options: AnswerOptions
) -> Any:
    """The answer where the model read one row in one window."""
    return made.postprocess([RowOutputs(entry, [Window(encoding, outputs)])], entry, options)


def one_hot(best: list[int], classes: int, height: float = 5.0) -> np.ndarray[Any, Any]:
    return (np.eye(classes, dtype=np.float32) * height)[best]


def error_of(made: BaseTask, value: object) -> PredictionError:
    with pytest.raises(PredictionError) as caught:
        made.parse(value)
    assert caught.value.kind is ErrorKind.INVALID_INPUT
    return caught.value
