"""Sentence similarity: how near sentences are to another, by the cosine of their vectors."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from flambeau.tasks.base import (
    AnswerOptions,
    Entry,
    RowOutputs,
    RowValue,
    SentenceTask,
    json_type,
    short_numbers,
    unit,
)
from flambeau.types import JsonValue, TaskName


class Comparison(Entry, frozen=True):
    """A sentence, and those that it is compared with."""

    source: str
    sentences: list[str]


class Task(SentenceTask):
    """Legacy and full answer: a number from -1 to 1 for each sentence, in the order given."""

    name: ClassVar[TaskName] = "sentence-similarity"
    example: ClassVar[JsonValue] = {
        "inputs": {
            "source_sentence": "Flambeau carries the torch.",
            "sentences": ["A torch is carried on.", "It rains in London."],
        }
    }
    accepts: ClassVar[str] = (
        '{"inputs": {"source_sentence": "...", "sentences": ["...", "..."]}} or a JSON list of those'
    )

    @override
    def read_entry(self, value: RowValue) -> Comparison:
        if not isinstance(value, dict):
            found = "plain text" if isinstance(value, str) else json_type(value)
            raise self.invalid(
                f"expected an object with 'source_sentence' and 'sentences', got {found}"
            )
        missing = [name for name in ("source_sentence", "sentences") if value.get(name) is None]
        if missing:
            raise self.invalid(f"the object has no '{missing[0]}'")
        source = self.require_text(value["source_sentence"], "'source_sentence'")
        return Comparison(source, self.require_texts(value["sentences"], "sentences"))

    @override
    def texts(self, entry: Any) -> Sequence[str]:
        assert isinstance(entry, Comparison)
        return [entry.source, *entry.sentences]

    @override
    def postprocess(
        self, rows: Sequence[RowOutputs], entry: Any, options: AnswerOptions
    ) -> JsonValue:
        vectors = np.stack([unit(self.embed(row, options.parameters)) for row in rows])
        scores: list[JsonValue] = short_numbers(vectors[1:] @ vectors[0])
        return scores
