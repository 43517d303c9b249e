"""Text ranking: forms of requests, order and scores, and what is refused."""

import math
from typing import Any

import numpy as np
import pytest

from flambeau.errors import LoadError, PredictionError
from flambeau.tasks.base import AnswerOptions, Head, RowOutputs, TextInput, Window
from flambeau.tasks.text_ranking import Task
from tests.tasks.samples import error_of, spaced_encoding, with_parameters

TEXTS = ["rain", "a torch", "rain", "a light"]
LOGITS = {"rain": -2.0, "a torch": 3.0, "a light": 0.5}
ASKED = {"query": "who", "texts": TEXTS}


def made(**config: Any) -> Task:
    return Task(Head(["LABEL_0"], config=config))


def ranked(value: Any, task: Task | None = None) -> Any:
    """The answer where the model gives the pairs those logits."""
    task = task or made()
    inputs = task.parse(value)
    [entry] = inputs.entries
    options = AnswerOptions(parameters=inputs.parameters)
    rows = []
    for row in task.rows(entry, inputs.parameters):
        assert row.text == "who"
        logits = np.array([LOGITS[row.pair or ""]], dtype=np.float32)
        rows.append(RowOutputs(row, [Window(spaced_encoding("who"), {"logits": logits})]))
    return task.postprocess(rows, entry, options)


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


@pytest.mark.parametrize(
    "value",
    [
        ASKED,
        {"inputs": ASKED},
        {"query": "who", "documents": TEXTS},
        {"query": "who", "documents": [{"text": text} for text in TEXTS]},
    ],
)
def test_each_form_is_ranked(value: Any) -> None:
    """Best first, equal scores in the order given; sigmoid by default."""
    answer = ranked(value)
    assert [row["index"] for row in answer] == [1, 3, 0, 2]
    expected = [sigmoid(logit) for logit in (3, 0.5, -2, -2)]
    assert [row["score"] for row in answer] == pytest.approx(expected, abs=1e-6)
    assert [list(row) for row in answer] == [["index", "score"]] * 4


@pytest.mark.parametrize("wraps", [True, False])
def test_parameters_stand_beside_the_query_or_below(wraps: bool) -> None:
    """`top_n`, `raw_scores` and the texts themselves."""
    given = {"top_n": 2, "raw_scores": True, "return_text": True}
    value = {"inputs": ASKED, "parameters": given} if wraps else ASKED | given
    assert ranked(value) == [
        {"index": 1, "score": 3.0, "text": "a torch"},
        {"index": 3, "score": 0.5, "text": "a light"},
    ]
    assert len(ranked(ASKED | {"top_n": 99})) == len(TEXTS)
    assert "text" in ranked(ASKED | {"return_documents": True})[0]


def test_a_pair_gets_its_score_alone() -> None:
    """As the text-classification pipeline answers for such a model; a list of pairs is many."""
    pair = {"text": "who", "text_pair": "a light"}
    assert ranked(pair) == {"label": "LABEL_0", "score": pytest.approx(sigmoid(0.5))}
    assert made().parse({"inputs": [pair, pair]}).many


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, sigmoid(3)),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, 3.0),
        (
            {"sbert_ce_default_activation_function": "torch.nn.modules.activation.Tanh"},
            math.tanh(3),
        ),
    ],
)
def test_the_models_activation_is_used(config: dict[str, Any], expected: float) -> None:
    """What sentence-transformers saved in the configuration; raw scores pass it by."""
    task = made(**config)
    assert ranked(ASKED, task)[0]["score"] == pytest.approx(expected)
    assert ranked(ASKED | {"raw_scores": True}, task)[0]["score"] == 3.0


def test_the_best_window_counts() -> None:
    """Of a document that is read in windows, one may have the answer."""
    task = made()
    inputs = task.parse({"query": "who", "texts": ["long"], "truncation": "window"})
    assert task.window_rule(inputs.parameters).truncation == "window"
    encoding = spaced_encoding("who")
    windows = [
        Window(encoding, {"logits": np.array([logit], np.float32)}) for logit in (-1.0, 2.0, 0.0)
    ]
    rows = [RowOutputs(TextInput("who", "long"), windows)]
    options = with_parameters(task, raw_scores=True)
    assert task.postprocess(rows, inputs.entries[0], options) == [{"index": 0, "score": 2.0}]


def test_far_scores_keep_their_order() -> None:
    """Where sigmoid gives 1 for both, the model's own numbers decide."""
    task = made()
    entry = task.parse({"query": "q", "texts": ["a", "b"]}).entries[0]
    rows = [
        RowOutputs(TextInput("q", "x"), [Window(spaced_encoding("q"), {"logits": array})])
        for array in (np.array([40.0], np.float32), np.array([60.0], np.float32))
    ]
    answer: Any = task.postprocess(rows, entry, with_parameters(task))
    assert [row["index"] for row in answer] == [1, 0]


def test_models_with_several_labels_are_refused() -> None:
    """When they load, or, where nothing named the labels, when they answer."""
    with pytest.raises(LoadError, match="text-classification"):
        Task(Head(["no", "yes"]))
    task = Task(Head())
    entry = task.parse(ASKED).entries[0]
    window = Window(spaced_encoding("who"), {"logits": np.zeros(2, np.float32)})
    with pytest.raises(PredictionError, match="2 scores"):
        task.postprocess([RowOutputs(TextInput("a", "b"), [window])], entry, with_parameters(task))


def test_unknown_activations_do_not_load() -> None:
    """Another in its place would change every score."""
    with pytest.raises(LoadError, match=r"activation 'my\.Own'"):
        made(sbert_ce_default_activation_function="my.Own")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("who", "got plain text"),
        ({"texts": ["a"]}, "no 'query'"),
        ({"query": "who"}, "no 'texts'"),
        ({"query": "who", "texts": "a"}, "'texts' must be a list of texts"),
        ({"query": "who", "documents": [{"body": "a"}]}, "entry 0 of 'documents' must be a string"),
        ({"query": "", "texts": ["a"]}, "'query' is empty"),
        (ASKED | {"top_n": 0}, "'top_n' must be a whole number from 1 on, not 0"),
        (ASKED | {"raw_scores": "yes"}, "'raw_scores' must be true or false"),
        ({"inputs": ASKED, "parameters": {"top_k": 1}}, "unknown parameters top_k"),
        ({"text": "who", "text_pair": ""}, "'text_pair' is empty"),
    ],
)
def test_wrong_rankings(value: Any, problem: str) -> None:
    """The error names what is wrong."""
    assert problem in error_of(made(), value).message
