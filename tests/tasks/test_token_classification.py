"""Token classification: how labels of tokens become entities in the pipelines' form."""

from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models

from flambeau.handlers.tokenizer_vocabulary import TokenizerSource, TokenizerVocabulary
from flambeau.tasks.base import (
    AnswerOptions,
    Encoding,
    Head,
    RowOutputs,
    TextInput,
    Window,
    WindowRule,
)
from flambeau.tasks.token_classification import Task
from tests.tasks.samples import error_of

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
TEXT = "Jo Annas of Xu"
TOKENS = [("Jo", 0, 2), ("Anna", 3, 7), ("##s", 7, 8), ("of", 9, 11), ("[UNK]", 12, 14)]


def vocabulary(*, marked: bool = True) -> TokenizerVocabulary:
    """A tokenizer of `TOKENS`, whose ids are places in that list; not `marked`: no WordPiece."""
    ids = {token: index for index, (token, *_) in enumerate(TOKENS)}
    kind = models.WordPiece if marked else models.WordLevel
    tokenizer = Tokenizer(kind(ids, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    return TokenizerVocabulary(TokenizerSource(tokenizer, {}))


SCORES = [  # logarithms of these are the logits: each row has a sum of 1
    [0.1, 0.6, 0.1, 0.1, 0.1],
    [0.1, 0.1, 0.5, 0.2, 0.1],
    [0.1, 0.0, 0.1, 0.1, 0.7],
    [0.8, 0.05, 0.05, 0.05, 0.05],
    [0.2, 0.0, 0.0, 0.8, 0.0],
]


def answer(*, marked: bool = True, **parameters: Any) -> Any:
    """The answer for `TEXT` in the pipelines' form."""
    made = Task(Head(LABELS, vocabulary=vocabulary(marked=marked)))
    inputs = made.parse({"inputs": TEXT, "parameters": parameters})
    count = len(TOKENS)
    encoding = Encoding(
        [9, *range(count), 9],
        [],
        ["", *(name for name, *_ in TOKENS), ""],
        [(0, 0), *((start, end) for _, start, end in TOKENS), (0, 0)],
        [None, 0, 1, 1, 2, 3, None],
        [None, *[0] * count, None],
    )
    inner = np.log(np.array(SCORES) + 1e-9)
    logits = np.concatenate([np.zeros((1, 5)), inner, np.zeros((1, 5))]).astype(np.float32)
    entry = TextInput(TEXT)
    row = RowOutputs(entry, [Window(encoding, {"logits": logits})])
    options = AnswerOptions("full", inputs.parameters, pipeline=True)
    return made.postprocess([row], entry, options)


def brief(found: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(*each.values(),) for each in found]


def test_no_strategy_gives_tokens() -> None:
    """Each token with its label, its place and its spelling; O is left out, unknown ones as typed."""
    found = answer()
    assert list(found[0]) == ["entity", "score", "index", "word", "start", "end"]
    assert [(*list(each.values())[:1], *list(each.values())[2:]) for each in found] == [
        ("B-PER", 1, "Jo", 0, 2),
        ("I-PER", 2, "Anna", 3, 7),
        ("I-LOC", 3, "##s", 7, 8),
        ("B-LOC", 5, "Xu", 12, 14),
    ]
    assert found == answer(aggregation_strategy="NONE")
    assert found == answer(grouped_entities=False, ignore_subwords=True)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (
            "simple",
            [("PER", 0.55, "Jo Anna", 0, 7), ("LOC", 0.7, "##s", 7, 8), ("LOC", 0.8, "Xu", 12, 14)],
        ),
        ("first", [("PER", 0.55, "Jo Annas", 0, 8), ("LOC", 0.8, "Xu", 12, 14)]),
        (
            "average",  # Annas: (0.1 + 0.7) / 2 for I-LOC is above (0.5 + 0.1) / 2
            [("PER", 0.6, "Jo", 0, 2), ("LOC", 0.4, "Annas", 3, 8), ("LOC", 0.8, "Xu", 12, 14)],
        ),
        (
            "max",
            [("PER", 0.6, "Jo", 0, 2), ("LOC", 0.7, "Annas", 3, 8), ("LOC", 0.8, "Xu", 12, 14)],
        ),
    ],
)
def test_strategies(strategy: str, expected: list[tuple[Any, ...]]) -> None:
    """How tokens that disagree become words and entities, and what their scores are."""
    found = answer(aggregation_strategy=strategy)
    assert list(found[0]) == ["entity_group", "score", "word", "start", "end"]
    for each, wanted in zip(found, expected, strict=True):
        assert each.pop("score") == pytest.approx(wanted[1], abs=1e-6)
        assert (*each.values(),) == (wanted[0], *wanted[2:])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"grouped_entities": True}, "simple"),
        ({"grouped_entities": True, "ignore_subwords": True}, "first"),
        ({"grouped_entities": True, "ignore_subwords": False}, "simple"),
        ({"ignore_subwords": True, "aggregation_strategy": "max"}, "none"),
    ],
)
def test_older_names_of_strategies(old: dict[str, Any], new: str) -> None:
    """`grouped_entities` and `ignore_subwords` choose a strategy, over one that is named."""
    assert answer(**old) == answer(aggregation_strategy=new)


def test_ignored_labels() -> None:
    """Tokens are left out by their label, entities by their group; nothing is ignored but these."""
    assert [each["entity"] for each in answer(ignore_labels=["B-PER", "O"])] == [
        "I-PER",
        "I-LOC",
        "B-LOC",
    ]
    first: dict[str, Any] = {"aggregation_strategy": "first"}
    groups = [each["entity_group"] for each in answer(**first, ignore_labels=[])]
    assert groups == ["PER", "O", "LOC"]
    assert [each["entity_group"] for each in answer(**first, ignore_labels=["PER"])] == ["O", "LOC"]


def test_words_without_marks_are_told_by_spaces() -> None:
    """Byte-level and SentencePiece vocabularies: what has a space before it begins a word."""
    found = answer(marked=False, aggregation_strategy="first")
    assert [(each["start"], each["end"]) for each in found] == [(0, 8), (12, 14)]


def test_plain_tags_keep_their_dashes_until_grouped() -> None:
    """As the pipeline: what stands before the first dash of a label is taken for B or I."""
    made = Task(Head(["x-y", "O"], vocabulary=vocabulary()))
    encoding = Encoding([0, 1], [], ["Jo", "Anna"], [(0, 2), (3, 7)], [0, 1], [0, 0])
    logits = np.array([[1, 0], [1, 0]], np.float32)
    entry = TextInput(TEXT)
    row = RowOutputs(entry, [Window(encoding, {"logits": logits})])
    parameters = made.read_parameters({"aggregation_strategy": "simple"})
    (entity,) = _list(made.postprocess([row], entry, AnswerOptions("full", parameters)))
    assert (entity["entity_group"], entity["start"], entity["end"]) == ("y", 0, 7)


def _list(value: Any) -> list[Any]:
    assert isinstance(value, list)
    return value


def test_stride_means_windows() -> None:
    """`stride` alone asks for windows that share so many tokens."""
    made = Task(Head(LABELS))
    read = made.read_parameters
    assert made.window_rule(read({"stride": 3})) == WindowRule("window", stride=3)
    assert made.window_rule(read({"truncation": "window"})) == WindowRule("window")
    assert made.window_rule(read({})) == WindowRule("cut")


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["Jo", "Anna"], [TextInput("Jo+Anna", None, ["Jo", "Anna"])]),
        ([["Jo", "Anna"]], [TextInput("Jo+Anna", None, ["Jo", "Anna"])]),
        ([["Jo"], ["x", "y"]], [TextInput("Jo", None, ["Jo"]), TextInput("x+y", None, ["x", "y"])]),
    ],
)
def test_texts_that_are_split_already(inputs: object, expected: list[TextInput]) -> None:
    """A list of words is one text, joined by the delimiter; its answer is a list of one."""
    parameters = {"is_split_into_words": True, "delimiter": "+"}
    read = Task(Head(LABELS)).parse({"inputs": inputs, "parameters": parameters})
    assert read.entries == expected
    assert read.many


@pytest.mark.parametrize(
    ("inputs", "parameters", "message"),
    [
        ("a", {"aggregation_strategy": "best"}, '"none" or "simple"'),
        ("a", {"aggregation_strategy": 1}, "'aggregation_strategy' must be"),
        ("a", {"ignore_labels": "O"}, "'ignore_labels' must be a list of texts"),
        ("a", {"stride": -1}, "'stride' must be a whole number from 0 on"),
        ("a", {"stride": 3, "truncation": "cut"}, "'stride' reads a text in windows"),
        ("a", {"grouped_entities": 1}, "'grouped_entities' must be true or false"),
        ("a", {"is_split_into_words": True}, "needs a list of words"),
        (["a", ["b"]], {"is_split_into_words": True}, "either words or lists of them"),
        ([["a", 1]], {"is_split_into_words": True}, "a word must be a string, not a number"),
        ([["a", ""]], {"is_split_into_words": True}, "a word is empty"),
        ([[]], {"is_split_into_words": True}, "the list of words is empty"),
        ([["a"]], {}, "needs the parameter 'is_split_into_words'"),
        ({"text": "a", "text_pair": "b"}, {}, "no 'text_pair'"),
    ],
)
def test_wrong_requests(inputs: object, parameters: dict[str, object], message: str) -> None:
    """Errors name the parameter or the input, what it was and what is allowed."""
    value = {"inputs": inputs, "parameters": parameters}
    assert message in error_of(Task(Head(LABELS)), value).message
