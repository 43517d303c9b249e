"""Fill-mask: what is read, which tokens are chosen, and what stands in the answers."""

import logging
from typing import Any

import numpy as np
import pytest

from flambeau.errors import LoadError, PredictionError
from flambeau.tasks.base import AnswerOptions, Encoding, Head, RowOutputs, TextInput, Window
from flambeau.tasks.fill_mask import MAX_MASKS, Task
from tests.tasks.samples import error_of, vocabulary

WORDS = ("the", "light", "dark", ".")
MASK = 4
"""The mask's id; those of the words follow it."""


@pytest.fixture
def made() -> Task:
    return Task(Head(vocabulary=vocabulary(*WORDS)))


def seen(ids: list[int], logits: list[list[float]], first: int = 0) -> Window:
    """A window of words of one letter, the first of which is number `first` of the text."""
    count = len(ids)
    encoding = Encoding(
        ids=[2, *ids, 3],
        type_ids=[0] * (count + 2),
        tokens=["x"] * (count + 2),
        offsets=[(0, 0), *((2 * n, 2 * n + 1) for n in range(first, first + count)), (0, 0)],
        words=[None, *range(first, first + count), None],
        parts=[None, *[0] * count, None],
    )
    return Window(encoding, {"logits": np.array(logits, np.float32).reshape(len(logits), 9)})


def filled(made: Task, text: str, windows: list[Window], **parameters: Any) -> Any:
    shape = parameters.pop("shape", "full")
    entry = TextInput(text)
    options = AnswerOptions(shape, made.read_parameters(parameters))
    return made.postprocess([RowOutputs(entry, windows)], entry, options)


def test_the_best_tokens_stand_in_the_text(made: Task) -> None:
    """Probabilities among all tokens, the best first; the text is decoded with each of them."""
    windows = [seen([5, MASK, 8], [[0, 0, 0, 0, 0, 0, 2, 1, 0]])]
    first, second = filled(made, "the [MASK] .", windows, top_k=2)
    total = np.exp(2) + np.exp(1) + 7
    assert first == {
        "score": pytest.approx(np.exp(2) / total),
        "token": 6,
        "token_str": "light",
        "sequence": "the light .",
    }
    assert list(first) == ["score", "token", "token_str", "sequence"]
    assert (second["token_str"], second["score"]) == ("dark", pytest.approx(np.exp(1) / total))
    assert len(filled(made, "the [MASK] .", windows)) == 5
    assert filled(made, "the [MASK] .", windows, shape="legacy") == "light"


def test_several_masks_have_a_list_each(made: Task) -> None:
    """In the text's order; the other masks and the special tokens stay in the text."""
    windows = [seen([MASK, MASK], [[0, 0, 0, 0, 0, 9, 0, 0, 0], [0, 0, 0, 0, 0, 0, 9, 0, 0]])]
    answer = filled(made, "[MASK] [MASK]", windows, top_k=1)
    assert [[row["sequence"] for row in rows] for rows in answer] == [
        ["[CLS] the [MASK] [SEP]"],
        ["[CLS] [MASK] light [SEP]"],
    ]
    assert filled(made, "[MASK] [MASK]", windows, shape="legacy") == ["the", "light"]


def test_targets_are_chosen_from(made: Task, caplog: pytest.LogCaptureFixture) -> None:
    """Their probabilities stay those among all; a text that is no token stands for its first."""
    windows = [seen([MASK], [[0, 0, 0, 0, 0, 1, 2, 3, 0]])]
    free = {row["token_str"]: row["score"] for row in filled(made, "[MASK]", windows)}
    targets = ["light", "the dark", "light"]
    chosen = filled(made, "[MASK]", windows, targets=targets, top_k=9)
    assert [(row["token_str"], row["score"]) for row in chosen] == [
        ("light", free["light"]),
        ("the", free["the"]),
    ]
    assert [row["token_str"] for row in filled(made, "[MASK]", windows, targets="dark")] == ["dark"]
    with caplog.at_level(logging.WARNING):
        made.parse({"inputs": "[MASK]", "parameters": {"targets": targets}})
    assert "1 of 3 targets are no tokens" in caplog.text
    assert "dark" not in caplog.text, "users' texts stay out of the log"


def test_each_mask_is_taken_where_most_is_around_it(made: Task) -> None:
    """A mask in two windows has the answer of the one that it stands further inside of."""
    the, light = [[0.0] * 5 + [9, 0, 0, 0]], [[0.0] * 6 + [9, 0, 0]]
    outer = seen([5, 5, 5, MASK], the)
    inner = seen([5, MASK, 5, 5], light, first=2)
    (best,) = filled(made, "x x x [MASK] x x", [outer, inner], top_k=1)
    assert best["token_str"] == "light"
    (best,) = filled(made, "x x x [MASK] x x", [inner, outer], top_k=1)
    assert best["token_str"] == "light"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("no mask", "the text has no [MASK]"),
        ("<mask>", "the text has no [MASK]"),
        (["[MASK]", "none"], "entry 1 of the list: the text has no [MASK]"),
        ("[MASK]" * (MAX_MASKS + 1), "has 101 [MASK]; at most 100"),
        (
            {"inputs": ["[MASK] " * 100] * 40, "parameters": {"top_k": 150}},
            "would have 420000000 characters",
        ),
        (
            {"inputs": "[MASK]", "parameters": {"targets": ["a"] * 1_001}},
            "a list of at most 1000 texts",
        ),
        ({"inputs": "[MASK]", "parameters": {"top_k": 0}}, "'top_k' must be a whole number from 1"),
        ({"inputs": "[MASK]", "parameters": {"targets": 3}}, "'targets' must be a text or a list"),
        ({"inputs": "[MASK]", "parameters": {"targets": []}}, "'targets' is an empty list"),
        ({"inputs": "[MASK]", "parameters": {"targets": [" "]}}, "none of them is one"),
    ],
)
def test_wrong_requests(made: Task, value: object, problem: str) -> None:
    """The error names the mask or the parameter, and what is allowed."""
    assert problem in error_of(made, value).message


def test_more_than_the_vocabulary_is_refused(made: Task) -> None:
    """The error says how many tokens there are."""
    with pytest.raises(PredictionError, match="'top_k' must be a whole number from 1 to 9"):
        filled(made, "[MASK]", [seen([MASK], [[0] * 9])], top_k=10)


def test_masks_that_were_cut_off_are_missed(made: Task) -> None:
    """An answer about some of the masks would be taken for one about others."""
    windows = [seen([MASK, 5], [[0] * 9])]
    with pytest.raises(PredictionError, match=r"had 1 of its 2 \[MASK\].*\"window\""):
        filled(made, "[MASK] the [MASK]", windows)


def test_a_tokenizer_without_a_mask_fills_nothing() -> None:
    """Such a model does not load, and the error says what is missing."""
    with pytest.raises(LoadError, match="mask_token"):
        Task(Head(vocabulary=vocabulary(mask_token=None)))


def test_the_example_has_the_models_own_mask() -> None:
    """What is run at load has the mask in it that the tokenizer knows."""
    made = Task(Head(vocabulary=vocabulary("<mask>", mask_token="<mask>")))
    assert made.sample() == "Flambeau carries the <mask>."
    assert len(made.parse(made.sample()).entries) == 1


def test_a_list_of_one_is_the_pipelines_one(made: Task) -> None:
    """The pipeline takes a list of one text for the text; plain lists stay lists."""
    for value, expected in (({"inputs": ["[MASK]"]}, "x"), (["[MASK]"], ["x"])):
        inputs = made.parse(value)
        options = AnswerOptions("full", inputs.parameters, inputs.pipeline, inputs.many)
        assert made.assemble(["x"], options) == expected
