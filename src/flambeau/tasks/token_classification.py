"""Token classification: the entities in a text, such as names, with their places."""

from collections.abc import Sequence
from typing import ClassVar

import msgspec
import numpy as np
from typing_extensions import override

from flambeau.tasks.base import (
    AnswerOptions,
    Arrays,
    Encoding,
    ForwardTask,
    RowOutputs,
    TextInput,
    softmax,
    text_tokens,
)
from flambeau.types import JsonValue, TaskName

_STARTING = frozenset("BSU")
_TAGGED = frozenset("BSUIELM")


class Task(ForwardTask):
    """Legacy answer: [token, label] pairs. Full answer: entities with character offsets."""

    name: ClassVar[TaskName] = "token-classification"
    example: ClassVar[JsonValue] = "Ada Lovelace lived in London."
    has_labels: ClassVar[bool] = True
    outputs: ClassVar[tuple[str, ...]] = ("logits",)

    @override
    def postprocess(
        self, rows: Sequence[RowOutputs], entry: TextInput, options: AnswerOptions
    ) -> JsonValue:
        encoding, outputs = rows[0].windows[0].encoding, rows[0].windows[0].outputs
        logits = outputs["logits"]
        if options.shape == "legacy":
            best = logits.argmax(axis=-1).tolist()
            return [
                [token, self.label(index)]
                for token, index in zip(encoding.tokens, best, strict=True)
            ]
        return [entity.to_json(entry.text) for entity in self.entities(outputs, encoding, entry)]

    def entities(self, outputs: Arrays, encoding: Encoding, entry: TextInput) -> "list[Entity]":
        """Group words into entities. A word has the label and the score of its first token."""
        probabilities = softmax(outputs["logits"])
        best = probabilities.argmax(axis=-1)
        scores = np.take_along_axis(probabilities, best[:, None], axis=-1)[:, 0]
        entities: list[Entity] = []
        current: Entity | None = None
        for token in text_tokens(encoding, entry.text, part=0):
            if not token.starts_word:
                if current is not None:
                    current.end = max(current.end, token.end)
                continue
            starts, group = split_tag(self.label(int(best[token.index])))
            if group == "O":
                current = None
                continue
            if current is None or starts or group != current.group:
                current = Entity(group, token.start, token.end)
                entities.append(current)
            current.end = token.end
            current.word_scores.append(float(scores[token.index]))
        return entities


class Entity(msgspec.Struct):
    """A stretch of words with one label. `start` and `end` count characters of the text."""

    group: str
    start: int
    end: int
    word_scores: list[float] = []

    def to_json(self, text: str) -> JsonValue:
        """The entity as clients see it; its score is the mean over its words."""
        return {
            "entity_group": self.group,
            "score": sum(self.word_scores) / len(self.word_scores),
            "word": text[self.start : self.end],
            "start": self.start,
            "end": self.end,
        }


def split_tag(label: str) -> tuple[bool, str]:
    """Whether a label opens an entity, and the entity's group: `B-PER` gives (True, "PER").

    Knows the prefixes of IOB2, BIOES and BILOU. A label without one continues its equals.
    """
    if len(label) > 2 and label[0] in _TAGGED and label[1] in "-_":
        return label[0] in _STARTING, label[2:]
    return False, label
