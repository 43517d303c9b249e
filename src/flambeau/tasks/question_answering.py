"""Extractive question answering: the span of a context that answers a question."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from flambeau.tasks.base import (
    AnswerOptions,
    Arrays,
    Encoding,
    ForwardTask,
    RowOutputs,
    RowValue,
    TextInput,
    json_type,
    softmax,
    text_tokens,
)
from flambeau.types import JsonValue, TaskName

MAX_ANSWER_TOKENS = 30


class Task(ForwardTask):
    """Legacy answer: the text of the span. Full answer: with its score and place.

    An answer is at most 30 tokens long, then widened to whole words. The score is
    p(start) * p(end), both over the context's tokens. Where truncation left nothing of the
    context the answer is empty.
    """

    name: ClassVar[TaskName] = "question-answering"
    example: ClassVar[JsonValue] = {
        "question": "Who carries the torch?",
        "context": "Flambeau carries the torch.",
    }
    accepts: ClassVar[str] = '{"question": "...", "context": "..."} or a JSON list of those'
    outputs: ClassVar[tuple[str, ...]] = ("start_logits", "end_logits")
    truncation: ClassVar[Literal["longest_first", "only_second"]] = "only_second"

    @override
    def read_entry(self, value: RowValue) -> TextInput:
        if not isinstance(value, dict):
            found = "plain text" if isinstance(value, str) else json_type(value)
            raise self.invalid(f"expected an object with 'question' and 'context', got {found}")
        missing = [name for name in ("question", "context") if value.get(name) is None]
        if missing:
            raise self.invalid(f"the object has no '{missing[0]}'")
        question = self.require_text(value["question"], "the question")
        return TextInput(question, self.require_text(value["context"], "the context"))

    @override
    def postprocess(
        self, rows: Sequence[RowOutputs], entry: TextInput, options: AnswerOptions
    ) -> JsonValue:
        encoding, outputs = rows[0].windows[0].encoding, rows[0].windows[0].outputs
        context = entry.pair or ""
        start, end, score = self._answer(outputs, encoding, context)
        if options.shape == "legacy":
            return context[start:end]
        return {"answer": context[start:end], "score": score, "start": start, "end": end}

    def _answer(self, outputs: Arrays, encoding: Encoding, context: str) -> tuple[int, int, float]:
        """The best answer's first and last character (exclusive) and its score."""
        tokens = text_tokens(encoding, context, part=1)
        if not tokens:
            return 0, 0, 0.0
        rows = [token.index for token in tokens]
        first, last, score = best_span(
            softmax(outputs["start_logits"][rows]), softmax(outputs["end_logits"][rows])
        )
        while not tokens[first].starts_word:
            first -= 1
        while last + 1 < len(tokens) and not tokens[last + 1].starts_word:
            last += 1
        return tokens[first].start, tokens[last].end, score


def best_span(
    starts: npt.NDArray[np.float64],
    ends: npt.NDArray[np.float64],
    max_tokens: int = MAX_ANSWER_TOKENS,
) -> tuple[int, int, float]:
    """The (first, last, score) that maximises starts[first] * ends[last].

    Spans have first <= last and at most `max_tokens` tokens. Takes O(n * max_tokens) in numpy.
    """
    width = min(max_tokens, len(starts))
    padded = np.concatenate([np.zeros(width - 1), starts])
    windows = np.lib.stride_tricks.sliding_window_view(padded, width)
    # Row `last` of `windows` holds the starts from last - width + 1 to last.
    best_in_window = windows.argmax(axis=1)
    scores = windows[np.arange(len(ends)), best_in_window] * ends
    last = int(scores.argmax())
    first = max(0, last - width + 1 + int(best_in_window[last]))
    return first, last, float(scores[last])
