"""Turns the demo's examples into the token ids and labels that a BERT model trains on.

The checkpoint's own `tokenizer.json` does the work, through the `tokenizers` library. Its saved
padding (to 128 tokens) and truncation are switched off: training pads to the longest of a batch.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from demo_data import ENTITY_TAGS, Entity, QuestionAnswer, Review, TaggedSentence
from tokenizers import Encoding, Tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

IGNORED = -100
"""The label of positions that the loss leaves out."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example as ids; `labels` holds one class, a tag per token, or (start, end)."""

    ids: list[int]
    type_ids: list[int]
    labels: list[int]


def load_tokenizer(folder: "Path") -> Tokenizer:
    """Loads `tokenizer.json` without its saved padding and truncation."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def encode_review(tokenizer: Tokenizer, review: Review) -> Encoded:
    """Labels the text with its sentiment."""
    encoding = tokenizer.encode(review.text)
    return Encoded(encoding.ids, encoding.type_ids, [review.label])


def _tag(start: int, end: int, entities: "Sequence[Entity]") -> str:
    for entity in entities:
        if entity.start <= start and end <= entity.end:
            return f"{'B' if start == entity.start else 'I'}-{entity.kind}"
    return "O"


def encode_tagged(tokenizer: Tokenizer, sentence: TaggedSentence) -> Encoded:
    """Labels every token; the later pieces of a word are inside (`I-`) its entity.

    So the tags make sense on every token that a server returns, not on first pieces only.
    """
    encoding = tokenizer.encode(sentence.text)
    labels = [
        IGNORED if special else ENTITY_TAGS.index(_tag(start, end, sentence.entities))
        for (start, end), special in zip(
            encoding.offsets, encoding.special_tokens_mask, strict=True
        )
    ]
    return Encoded(encoding.ids, encoding.type_ids, labels)


def context_tokens(encoding: Encoding) -> range:
    """Returns the token positions of the context in an encoded (question, context) pair."""
    places = [at for at, sequence in enumerate(encoding.sequence_ids) if sequence == 1]
    return range(places[0], places[-1] + 1)


def encode_question(tokenizer: Tokenizer, example: QuestionAnswer) -> Encoded:
    """Labels the pair with the first and the last token of the answer."""
    encoding = tokenizer.encode(example.question, example.context)
    inside = [
        at
        for at in context_tokens(encoding)
        if encoding.offsets[at][0] < example.end and encoding.offsets[at][1] > example.start
    ]
    return Encoded(encoding.ids, encoding.type_ids, [inside[0], inside[-1]])


class Collate(Protocol):
    """Makes the keyword arguments of a model's forward from a batch."""

    def __call__(self, batch: "Sequence[Encoded]") -> dict[str, torch.Tensor]: ...


def _padded(rows: "Sequence[list[int]]", filler: int) -> torch.Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([row + [filler] * (width - len(row)) for row in rows])


def inputs(batch: "Sequence[Encoded]") -> dict[str, torch.Tensor]:
    """Pads ids, mask and type ids to the longest of the batch: int64, (batch, tokens)."""
    return {
        "input_ids": _padded([example.ids for example in batch], 0),
        "attention_mask": _padded([[1] * len(example.ids) for example in batch], 0),
        "token_type_ids": _padded([example.type_ids for example in batch], 0),
    }


def with_class_labels(batch: "Sequence[Encoded]") -> dict[str, torch.Tensor]:
    """Adds `labels`, (batch,)."""
    return inputs(batch) | {"labels": torch.tensor([example.labels[0] for example in batch])}


def with_token_labels(batch: "Sequence[Encoded]") -> dict[str, torch.Tensor]:
    """Adds `labels`, (batch, tokens)."""
    return inputs(batch) | {"labels": _padded([example.labels for example in batch], IGNORED)}


def with_span_labels(batch: "Sequence[Encoded]") -> dict[str, torch.Tensor]:
    """Adds `start_positions` and `end_positions`, (batch,) each."""
    return inputs(batch) | {
        "start_positions": torch.tensor([example.labels[0] for example in batch]),
        "end_positions": torch.tensor([example.labels[1] for example in batch]),
    }
