"""Sentence similarity: forms of requests, cosines, and what is refused."""

from typing import Any

import numpy as np
import pytest

from flambeau.tasks.base import Head, RowOutputs, Window
from flambeau.tasks.sentence_similarity import Comparison, Task
from tests.tasks.samples import error_of, spaced_encoding, with_parameters

ASKED = {"source_sentence": "a torch", "sentences": ["a light", "rain"]}


def made() -> Task:
    return Task(Head(config={"hidden_size": 2}))


@pytest.mark.parametrize("value", [ASKED, {"inputs": ASKED}])
def test_both_forms_are_read(value: Any) -> None:
    """With `inputs`, as the Hugging Face API has it, and without: one row for each sentence."""
    task = made()
    inputs = task.parse(value)
    assert inputs.entries == [Comparison("a torch", ["a light", "rain"])]
    assert not inputs.many
    rows = task.rows(inputs.entries[0], inputs.parameters)
    assert [row.text for row in rows] == ["a torch", "a light", "rain"]


def test_lists_are_many() -> None:
    """Several comparisons in one request."""
    assert made().parse({"inputs": [ASKED, ASKED]}).many


def test_scores_are_cosines() -> None:
    """From 1 for the same direction to -1 for the opposite, in the order given."""
    task = made()
    entry = Comparison("a", ["b", "c", "d"])
    rows = []
    for row, state in zip(
        task.rows(entry, task.read_parameters({})), [[2, 0], [5, 0], [0, 1], [-1, 0]], strict=True
    ):
        states = np.array([state, state], dtype=np.float32)
        rows.append(RowOutputs(row, [Window(spaced_encoding("a"), {"last_hidden_state": states})]))
    assert task.postprocess(rows, entry, with_parameters(task)) == [1, 0, -1]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("a text", "got plain text"),
        ({"sentences": ["a"]}, "no 'source_sentence'"),
        ({"source_sentence": "a"}, "no 'sentences'"),
        ({"source_sentence": "a", "sentences": "b"}, "'sentences' must be a list of texts"),
        ({"source_sentence": "a", "sentences": []}, "'sentences' is empty"),
        (
            {"source_sentence": "a", "sentences": ["b", 3]},
            "entry 1 of 'sentences' must be a string",
        ),
        ({"source_sentence": " ", "sentences": ["b"]}, "'source_sentence' is empty"),
        ({"source_sentence": "a", "sentences": ["b"] * 1001}, "at most 1000"),
        ({"inputs": ASKED, "parameters": {"normalize": True}}, "unknown parameters normalize"),
    ],
)
def test_wrong_comparisons(value: Any, problem: str) -> None:
    """The error names what is wrong."""
    assert problem in error_of(made(), value).message
