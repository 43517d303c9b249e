"""Text classification: the shapes of the pipelines' answers, scores, and windows."""

from typing import Any

import msgspec
import numpy as np
import pytest

from flambeau.tasks.base import AnswerOptions, Head, RowOutputs, TextInput, Window
from flambeau.tasks.text_classification import Task
from tests.tasks.samples import error_of, spaced_encoding, task

LABELS = ["no", "yes", "maybe"]
LOGITS = [0.0, 2.0, 1.0]


def classify(value: object, logits: list[float] | None = None, head: Head | None = None) -> Any:
    """What a request gets whose every text has these logits."""
    made = Task(head or Head(LABELS))
    inputs = made.parse(value)
    options = AnswerOptions("full", inputs.parameters, inputs.pipeline, inputs.many)
    outputs = {"logits": np.array(logits or LOGITS, dtype=np.float32)}
    answers = [
        made.postprocess(
            [RowOutputs(entry, [Window(spaced_encoding("x"), outputs)])], entry, options
        )
        for entry in inputs.entries
    ]
    return made.assemble(answers, options)


def labels(answer: Any) -> Any:
    """The answer with labels in the places of their records."""
    return [labels(each) for each in answer] if isinstance(answer, list) else answer["label"]


ORDER = ["yes", "maybe", "no"]


@pytest.mark.parametrize(
    ("inputs", "parameters", "expected"),
    [
        ("a", {}, ["yes"]),
        ("a", {"top_k": 1}, ["yes"]),
        ("a", {"top_k": 2}, ORDER[:2]),
        ("a", {"top_k": 99}, ORDER),
        ("a", {"top_k": None}, ORDER),
        ({"text": "a"}, {}, "yes"),
        ({"text": "a", "text_pair": "b"}, {}, "yes"),
        ({"text": "a", "text_pair": "b"}, {"top_k": 1}, ["yes"]),
        (["a"], {}, ["yes"]),
        (["a", {"text": "b"}], {}, ["yes", "yes"]),
        (["a"], {"top_k": 1}, [["yes"]]),
        (["a", "b"], {"top_k": None}, [ORDER, ORDER]),
        ([[["a", "b"]]], {}, ["yes"]),
        ("a", {"return_all_scores": True}, [LABELS]),
        ({"text": "a"}, {"return_all_scores": True}, LABELS),
        (["a"], {"return_all_scores": True}, [LABELS]),
        ("a", {"return_all_scores": False}, ["yes"]),
        ("a", {"return_all_scores": True, "top_k": 1}, ["yes"]),
    ],
)
def test_nesting_is_the_pipelines(
    inputs: object, parameters: dict[str, object], expected: object
) -> None:
    """The pipeline puts a string's answer into a list, an object's not; `top_k` adds a level."""
    assert labels(classify({"inputs": inputs, "parameters": parameters})) == expected


def test_all_scores_may_be_configured() -> None:
    """`return_all_scores` in config.json holds where the request says nothing."""
    head = Head(LABELS, config={"return_all_scores": True})
    assert labels(classify({"inputs": "a"}, head=head)) == [LABELS]


@pytest.mark.parametrize("value", ["a", {"text": "a"}])
def test_plain_forms_give_all_labels(value: object) -> None:
    """Outside of the pipelines' form all labels are given, the best first."""
    assert labels(classify(value)) == ORDER


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("none", [2.0, 1.0, 0.0]),
        ("SIGMOID", [0.880797, 0.731059, 0.5]),
        ("softmax", [0.665241, 0.244728, 0.090031]),
        ("default", [0.665241, 0.244728, 0.090031]),
    ],
)
def test_function_to_apply(function: str, expected: list[float]) -> None:
    """The request may choose how logits become scores, in any case of letters."""
    parameters = {"function_to_apply": function, "top_k": None}
    answer = classify({"inputs": "a", "parameters": parameters})
    assert [row["score"] for row in answer] == pytest.approx(expected, abs=1e-6)


def test_scores_that_float32_cannot_tell_keep_the_labels_order() -> None:
    """As the pipeline, which computes in float32: 20 and 30 are both certain."""
    head = Head(LABELS, "multi_label_classification")
    answer = classify({"inputs": "a", "parameters": {"top_k": None}}, [20.0, 30.0, -90.0], head)
    assert labels(answer) == LABELS
    assert answer[2]["score"] > 0


def test_windows_count_by_what_they_read_first() -> None:
    """Two windows of 4 and 3 tokens that share 1: weights 4/6 and 2/6. Special tokens are none."""
    made = Task(Head(["no", "yes"]))
    first = spaced_encoding("a b c d")
    second = msgspec.structs.replace(spaced_encoding("d e f"), shared=1)
    windows = [
        Window(first, {"logits": np.array([1.0, 4.0], dtype=np.float32)}),
        Window(second, {"logits": np.array([5.0, 0.0], dtype=np.float32)}),
    ]
    entry = TextInput("a b c d e f")
    row = RowOutputs(entry, windows)
    options = AnswerOptions("full", made.read_parameters({"function_to_apply": "none"}))
    answer: Any = made.postprocess([row], entry, options)
    assert {each["label"]: each["score"] for each in answer} == {
        "no": pytest.approx((4 * 1 + 2 * 5) / 6),
        "yes": pytest.approx((4 * 4 + 2 * 0) / 6),
    }
    legacy = AnswerOptions("legacy", options.parameters)
    assert made.postprocess([row], entry, legacy) == "yes"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"top_k": 0}, "'top_k' must be a whole number from 1 on or null, not 0"),
        ({"top_k": "3"}, 'not "3"'),
        ({"function_to_apply": "relu"}, '"none" or "sigmoid" or "softmax"'),
        ({"function_to_apply": 3}, "'function_to_apply' must be"),
        ({"return_all_scores": "yes"}, "'return_all_scores' must be true or false"),
        ({"max_length": 0}, "'max_length' must be a whole number from 1 on"),
        ({"topk": 1}, "unknown parameters topk"),
    ],
)
def test_wrong_parameters(parameters: dict[str, object], message: str) -> None:
    """Errors name the parameter, what is allowed, and what it was."""
    value = {"inputs": "a", "parameters": parameters}
    assert message in error_of(task("text-classification"), value).message


@pytest.mark.parametrize(
    "inputs", [["a", ["b", "c"]], [["a", "b"]], [[["a", "b", "c"]]], [[[1, 2]]]]
)
def test_lists_that_are_no_pairs(inputs: object) -> None:
    """A list in a list is a pair in the pipelines' form alone; the accepted forms are shown."""
    assert "text_pair" in error_of(task("text-classification"), {"inputs": inputs}).message
