"""Zero-shot classification: labels, templates and scores."""

import logging
from typing import Any

import numpy as np
import pytest

from flambeau.tasks.base import AnswerOptions, Head, RowOutputs, TextInput, Window
from flambeau.tasks.zero_shot_classification import MAX_LABELS, Task
from tests.tasks.samples import error_of, spaced_encoding

NLI = Head(["contradiction", "neutral", "entailment"])


def request(labels: object, **parameters: object) -> dict[str, object]:
    return {"inputs": "a text", "parameters": {"candidate_labels": labels, **parameters}}


def pairs(made: Task, value: object) -> list[TextInput]:
    """What the model reads for the request's first text."""
    inputs = made.parse(value)
    parameters: Any = inputs.parameters
    return made.rows(inputs.entries[0], parameters)


def classify(
    value: object, logits: list[list[float]], head: Head = NLI, shape: Any = "full"
) -> Any:
    """What one text gets whose pairs have these logits, in the order of the labels."""
    made = Task(head)
    inputs = made.parse(value)
    entry = inputs.entries[0]
    rows = [
        RowOutputs(row, [Window(spaced_encoding("x"), {"logits": np.array(each, np.float32)})])
        for row, each in zip(pairs(made, value), logits, strict=True)
    ]
    return made.postprocess(rows, entry, AnswerOptions(shape, inputs.parameters, pipeline=True))


@pytest.mark.parametrize("labels", [["red", "light blue"], "red, light blue ,,", " red,light blue"])
def test_each_label_is_a_pair(labels: object) -> None:
    """The model reads the text with a sentence for each label, from a list or a text with commas."""
    assert pairs(Task(NLI), request(labels)) == [
        TextInput("a text", "This example is red."),
        TextInput("a text", "This example is light blue."),
    ]


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("About {}!", "About red!"),
        ("{{}} {}", "{} red"),
        ("{0} and {0}", "red and red"),
        ("{}", "red"),
    ],
)
def test_templates(template: str, sentence: str) -> None:
    """The label stands where {} is; other braces are doubled."""
    (pair,) = pairs(Task(NLI), request("red", hypothesis_template=template))
    assert pair.pair == sentence


def test_one_label_of_several_is_true() -> None:
    """Softmax over the labels' entailment; the best first, and the text beside it."""
    answer = classify(request("a, b, c"), [[9, 0, 0.0], [0, 9, 2.0], [0, 0, 1.0]])
    assert list(answer) == ["sequence", "labels", "scores"]
    assert (answer["sequence"], answer["labels"]) == ("a text", ["b", "c", "a"])
    assert answer["scores"] == pytest.approx([0.665241, 0.244728, 0.090031], abs=1e-6)
    assert classify(request("a, b"), [[0, 0, 0], [0, 0, 1]], shape="legacy") == "b"


@pytest.mark.parametrize("name", ["multi_label", "multi_class"])
def test_labels_of_their_own(name: str) -> None:
    """`multi_label` (once `multi_class`): entailment against contradiction, label by label."""
    answer = classify(request("a, b", **{name: True}), [[2, 9, 0], [0, 9, 2]])
    assert answer["labels"] == ["b", "a"]
    assert answer["scores"] == pytest.approx([0.880797, 0.119203], abs=1e-6)


def test_a_single_label_has_a_score_of_its_own() -> None:
    """Softmax over one label would always be 1."""
    assert classify(request("a"), [[1, 0, 1]])["scores"] == [0.5]


def test_equal_scores_are_in_reversed_order() -> None:
    """As the pipeline, which reverses an ascending order; logits of any size do not overflow."""
    answer = classify(request("a, b, c"), [[0, 0, 500]] * 3)
    assert answer["labels"] == ["c", "b", "a"]
    assert answer["scores"] == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize(
    ("head", "logits"),
    [
        (Head(["ENTAILMENT", "not"]), [[2, 0], [0, 2]]),
        (Head(config={"label2id": {"neutral": 0, "Entail": 1, "no": 2}}), [[0, 2, 0], [2, 0, 0]]),
        (Head(["x", "y"], config={"label2id": None}), [[0, 2], [2, 0]]),
    ],
)
def test_entailment_is_found_by_name(head: Head, logits: list[list[float]]) -> None:
    """The output whose label begins with "entail", of label2id or else of the labels; else the last."""
    assert classify(request("a, b", multi_label=True), logits, head)["labels"] == ["a", "b"]


def test_no_entailment_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """A model without such a label serves, and the log says what is taken."""
    with caplog.at_level(logging.WARNING):
        Task(NLI)
        assert not caplog.records
        Task(Head(["no", "yes"]))
    assert "last output" in caplog.text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a text", "'candidate_labels' is missing"),
        (request(None), "'candidate_labels' is missing"),
        (request([]), "at least one label"),
        (request(" , "), "at least one label"),
        (request(["a", " "]), "label 1 of 'candidate_labels' is empty"),
        (request(["\ud800"]), "surrogate"),
        (request(["a", 3]), "'candidate_labels' must be a list of texts, or one text with commas"),
        (request(3), "not 3"),
        (request(["a"] * (MAX_LABELS + 1)), "has 1001 labels; at most 1000"),
        (request("a", hypothesis_template="no place"), "with {} where the label goes"),
        (request("a", hypothesis_template="{} {}"), "with {} where the label goes"),
        (request("a", hypothesis_template="{"), "with {} where the label goes"),
        (request("a", hypothesis_template="{label}"), "with {} where the label goes"),
        (request("a", hypothesis_template="{0.__class__}"), "with {} where the label goes"),
        (request("a", hypothesis_template="{:>9999999}"), "with {} where the label goes"),
        (request("a", hypothesis_template="{!r}"), "with {} where the label goes"),
        (request("a", hypothesis_template="{0}" * 5), "with {} where the label goes"),
        (request("a", hypothesis_template="{}" + "x" * 1000), "at most 1000 characters"),
        (request("a", hypothesis_template=3), "'hypothesis_template' must be a text"),
        (request("a", multi_label="yes"), "'multi_label' must be true or false"),
    ],
)
def test_wrong_requests(value: object, message: str) -> None:
    """What is missing or wrong is named, with what is allowed."""
    assert message in error_of(Task(NLI), value).message
