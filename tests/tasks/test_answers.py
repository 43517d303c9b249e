"""What tasks answer: labels, entities, spans and continuations."""

import json
from typing import Any

import numpy as np
import pytest

from flambeau.tasks.base import (
    TextInput,
)
from tests.tasks.samples import (
    LEGACY,
    answered,
    forward_task,
    one_hot,
    spaced_encoding,
    with_parameters,
)


def test_classification_answers() -> None:
    """Legacy is the best label; full is softmax scores, the best first, cut by top_k."""
    made = forward_task("text-classification", ["no", "yes", "maybe"])
    outputs = {"logits": np.array([0.0, 2.0, 1.0], dtype=np.float32)}
    encoding, entry = spaced_encoding("x"), TextInput("x")
    assert answered(made, outputs, encoding, entry, LEGACY) == "yes"
    answer: Any = answered(made, outputs, encoding, entry, with_parameters(made))
    assert [row["label"] for row in answer] == ["yes", "maybe", "no"]
    assert sum(row["score"] for row in answer) == pytest.approx(1)
    assert answer[0]["score"] == pytest.approx(np.exp(2) / (1 + np.exp(1) + np.exp(2)))
    best: Any = answered(made, outputs, encoding, entry, with_parameters(made, top_k=1))
    assert best == answer[:1]


@pytest.mark.parametrize(
    ("problem_type", "logits", "expected"),
    [
        ("multi_label_classification", [0.0, 1000.0], [1.0, 0.5]),
        (None, [0.0], [0.5]),
        ("regression", [3.5], [3.5]),
    ],
)
def test_scores_follow_the_problem_type(
    problem_type: str | None, logits: list[float], expected: list[float]
) -> None:
    """Sigmoid for several labels at once and for one label, the raw value for a regression."""
    made = forward_task("text-classification", [], problem_type)
    outputs = {"logits": np.array(logits, dtype=np.float32)}
    answer: Any = answered(
        made, outputs, spaced_encoding("x"), TextInput("x"), with_parameters(made)
    )
    assert [row["score"] for row in answer] == expected


def test_unnamed_labels_are_numbered() -> None:
    """A class without a name is LABEL_n, as in Transformers."""
    made = forward_task("text-classification", ["only"])
    outputs = {"logits": np.array([0.0, 1.0], dtype=np.float32)}
    assert answered(made, outputs, spaced_encoding("x"), TextInput("x"), LEGACY) == "LABEL_1"


IOB = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def entities(text: str, tags: list[int], labels: list[str] | None = None) -> list[tuple[str, str]]:
    """(group, word) of the answer; `tags` has one label per token that is not special."""
    made = forward_task("token-classification", labels or IOB)
    outputs = {"logits": one_hot([0, *tags, 0], len(labels or IOB))}
    answer: Any = answered(
        made, outputs, spaced_encoding(text), TextInput(text), with_parameters(made)
    )
    for entity in answer:
        assert text[entity["start"] : entity["end"]] == entity["word"]
        assert 0 < entity["score"] <= 1
    return [(entity["entity_group"], entity["word"]) for entity in answer]


@pytest.mark.parametrize(
    ("text", "tags", "expected"),
    [
        # Anna | Lee is two tokens each; the second token's tag does not count.
        ("Anna Lee is in Rome", [1, 0, 2, 4, 0, 0, 3, 0], [("PER", "Anna Lee"), ("LOC", "Rome")]),
        ("Anna Lee", [1, 1, 1, 1], [("PER", "Anna"), ("PER", "Lee")]),
        ("Anna Lee", [2, 0, 4, 0], [("PER", "Anna"), ("LOC", "Lee")]),
        ("Anna Lee", [0, 1, 0, 1], []),
        ("Zoë 😀 Rome", [1, 1, 0, 3, 3], [("PER", "Zoë"), ("LOC", "Rome")]),
    ],
)
def test_words_become_entities(text: str, tags: list[int], expected: list[Any]) -> None:
    """A word goes by its first token; B- opens, I- goes on, O ends; offsets count characters."""
    assert entities(text, tags) == expected


def test_plain_tags_are_grouped() -> None:
    """Labels without B- and I- continue their equals."""
    assert entities("ab cd ef", [1, 1, 2], ["O", "PER", "LOC"]) == [("PER", "ab cd"), ("LOC", "ef")]


def test_legacy_token_classification_keeps_special_tokens() -> None:
    """Legacy pairs every token of the row with its label."""
    made = forward_task("token-classification", IOB)
    outputs = {"logits": one_hot([0, 1, 0], 5)}
    answer = answered(made, outputs, spaced_encoding("Bo"), TextInput("Bo"), LEGACY)
    assert answer == [["[CLS]", "O"], ["Bo", "B-PER"], ["[SEP]", "O"]]
    assert json.loads(json.dumps(answer)) == answer
