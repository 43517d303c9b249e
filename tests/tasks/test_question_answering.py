"""Question answering: what is read, which spans are found, and how windows are merged."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flambeau.tasks.base import AnswerOptions, Encoding, Head, RowOutputs, TextInput, Window
from flambeau.tasks.question_answering import Task, best_spans
from tests.tasks.samples import (
    LEGACY,
    answered,
    error_of,
    forward_task,
    one_hot,
    spaced_encoding,
    task,
    vocabulary,
    with_parameters,
)

quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)
LEGACY_OPTIONS = AnswerOptions("legacy", task("question-answering").read_parameters({}))
QUESTION = TextInput("Q?", "ab cd ef gh ij kl mn op")


@pytest.mark.parametrize(
    "value",
    [
        {"question": "Q?", "context": "C."},
        '{"question" :"Q?", "context":"C."}',
        b"{'question': 'Q?', 'context': 'C.'}",
        {"inputs": {"question": "Q?", "context": "C."}},
        [{"question": "Q?", "context": "C."}],
        {"inputs": {"question": ["Q?"], "context": "C."}},
    ],
)
def test_question_forms(value: object) -> None:
    """A question and its context come as an object, JSON or Python-literal text, or in a list."""
    assert task("question-answering").parse(value).entries == [TextInput("Q?", "C.")]


@pytest.mark.parametrize(
    ("question", "context", "pairs"),
    [
        (["a", "b"], "C.", [("a", "C."), ("b", "C.")]),
        ("a", ["C.", "D."], [("a", "C."), ("a", "D.")]),
        (["a", "b"], ["C.", "D."], [("a", "C."), ("b", "D.")]),
    ],
)
def test_lists_in_an_object_are_a_list_of_objects(
    question: object, context: object, pairs: list[tuple[str, str]]
) -> None:
    """Several questions about a context, one about several contexts, or pairs of them."""
    inputs = task("question-answering").parse({"question": question, "context": context})
    assert inputs.entries == [TextInput(*pair) for pair in pairs]
    assert inputs.many


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("plain", "got plain text"),
        ({"question": "Q?"}, "no 'context'"),
        ({"context": "C."}, "no 'question'"),
        ({"question": "", "context": "C."}, "the question is empty"),
        ({"question": "Q?", "context": " "}, "the context is empty"),
        ({"question": "Q?", "context": 3}, "the context must be a string"),
        (["a"], "entry 0"),
        ({"question": ["a", "b"], "context": ["c"]}, "2 questions and 1 contexts"),
        ({"question": [], "context": "c"}, "the list is empty"),
        ([{"question": "a", "context": ["c"]}], "the context must be a string, not a list"),
    ],
)
def test_wrong_questions(value: object, problem: str) -> None:
    """Anything but a question with a context is refused."""
    assert problem in error_of(task("question-answering"), value).message


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"top_k": 0}, "'top_k' must be a whole number from 1 to 1000, not 0"),
        ({"topk": 0}, "'top_k' must be a whole number from 1 to 1000, not 0"),
        ({"max_answer_len": 0}, "'max_answer_len' must be a whole number from 1 on, not 0"),
        ({"max_seq_len": "x"}, "'max_seq_len' must be a whole number from 1 on, not \"x\""),
        ({"doc_stride": -1}, "'doc_stride' must be a whole number from 0 on, not -1"),
        ({"doc_stride": 9, "max_seq_len": 8}, "from 0 to max_seq_len, which is 8, not 9"),
        ({"max_question_len": 0}, "'max_question_len' must be a whole number from 1 on, not 0"),
        ({"align_to_words": 1}, "'align_to_words' must be true or false, not 1"),
        ({"handle_impossible_answer": "no"}, "must be true or false"),
        ({"padding": "left"}, '"longest" or "max_length"'),
        ({"best_k": 1}, "unknown parameters best_k"),
    ],
)
def test_wrong_parameters(parameters: dict[str, object], problem: str) -> None:
    """The error names the parameter, what it was and what is allowed."""
    value = {"inputs": {"question": "Q?", "context": "C."}, "parameters": parameters}
    assert problem in error_of(task("question-answering"), value).message


def test_the_pipelines_windows_are_the_default() -> None:
    """384 tokens at most, unless a request says otherwise; cut and refuse take all the model reads."""
    made = forward_task("question-answering")

    def rule(**parameters: object) -> tuple[object, ...]:
        found = made.window_rule(made.read_parameters(parameters))
        return found.truncation, found.max_length, found.stride

    assert rule() == ("window", 384, None)
    assert rule(max_seq_len=100, doc_stride=20) == ("window", 100, 20)
    assert rule(truncation="cut") == ("cut", None, None)
    assert rule(truncation="refuse", max_seq_len=9) == ("refuse", 9, None)


def all_spans(starts: Any, ends: Any, longest: int) -> list[tuple[int, int, float]]:
    """Every span with a score, the best first, as one would write it without a thought for speed."""
    spans = [
        (first, last, float(starts[first] * ends[last]))
        for first in range(len(starts))
        for last in range(first, min(first + longest, len(starts)))
    ]
    return sorted((span for span in spans if span[2] > 0), key=lambda span: -span[2])


scores = st.lists(st.integers(0, 2000), min_size=0, max_size=40).map(
    lambda values: np.array(values, dtype=np.float32) / 2000
)


@quick
@given(scores, st.integers(1, 45), st.integers(1, 12), st.randoms(use_true_random=False))
def test_best_spans_are_the_best(starts: Any, longest: int, count: int, random: Any) -> None:
    """The search over blocks finds what trying all spans finds, at every length."""
    ends = starts.copy()
    random.shuffle(ends)
    firsts, lasts, found = best_spans(starts, ends, count, longest)
    every = all_spans(starts, ends, longest)
    assert found.tolist() == pytest.approx([span[2] for span in every[:count]])
    known = {(first, last): score for first, last, score in every}
    for first, last, score in zip(firsts.tolist(), lasts.tolist(), found.tolist(), strict=True):
        assert known.pop((first, last)) == pytest.approx(score)


def test_long_contexts_are_searched_in_blocks() -> None:
    """100,000 tokens with answers of 200 are 20 million spans; the best are found among all."""
    starts = np.full(100_000, 1e-3, dtype=np.float32)
    ends = starts.copy()
    for place, height in ((99_000, 0.9), (7, 0.8), (50_000, 0.7)):
        starts[place] = ends[place + 199] = height
        ends[place + 200] = 1.0  # one token too far
    firsts, lasts, _ = best_spans(starts, ends, 3, 200)
    assert list(zip(firsts.tolist(), lasts.tolist(), strict=True)) == [
        (99_000, 99_199),
        (7, 206),
        (50_000, 50_199),
    ]


def answer_of(context: str, start: int, end: int) -> dict[str, Any]:
    """The full answer where token `start` and token `end` (special ones counted) score best."""
    made = forward_task("question-answering")
    encoding = spaced_encoding(context, part=1)
    count = len(encoding.ids)
    outputs = {
        "start_logits": one_hot([start], count)[0],
        "end_logits": one_hot([end], count)[0],
    }
    entry = TextInput("Q?", context)
    answer: Any = answered(made, outputs, encoding, entry, with_parameters(made))
    assert answered(made, outputs, encoding, entry, LEGACY_OPTIONS) == answer["answer"]
    assert context[answer["start"] : answer["end"]] == answer["answer"]
    return dict(answer)


def test_answer_is_the_contexts_own_text() -> None:
    """The span is given in the context's characters and widened to whole words."""
    assert answer_of("Él vive en París hoy", 5, 6)["answer"] == "París"
    assert answer_of("Él vive en París hoy", 5, 5)["answer"] == "París"
    assert answer_of("Él vive en París hoy", 6, 7)["answer"] == "París hoy"


def test_end_before_start_still_gives_a_valid_span() -> None:
    """Where the best start lies behind the best end, the best valid pair is taken."""
    answer = answer_of("Él vive en París hoy", 5, 2)
    assert answer["answer"]
    assert answer["score"] < 0.5


@pytest.mark.parametrize("pipeline", [False, True])
def test_no_context_left_is_an_empty_answer(pipeline: bool) -> None:
    """Where nothing of the context has tokens there is no answer."""
    made = forward_task("question-answering")
    encoding = Encoding([1, 2], [0, 0], ["[CLS]", "q"], [(0, 0), (0, 1)], [None, 0], [None, 0])
    outputs = {"start_logits": np.zeros(2, np.float32), "end_logits": np.zeros(2, np.float32)}
    entry = TextInput("q", "context")
    assert answered(made, outputs, encoding, entry, LEGACY_OPTIONS) == ""
    options = AnswerOptions("full", made.read_parameters({}), pipeline)
    assert answered(made, outputs, encoding, entry, options) == {
        "answer": "",
        "score": 0.0,
        "start": 0,
        "end": 0,
    }


def window(first: int, behind: int, starts: Any, ends: Any) -> Window:
    """Tokens of `QUESTION`'s context, two letters each, between two special ones."""
    size = behind - first + 2
    encoding = Encoding(
        ids=[2, *range(first + 5, behind + 5), 3],
        type_ids=[1] * size,
        tokens=["[CLS]", *["ab"] * (size - 2), "[SEP]"],
        offsets=[(0, 0), *((3 * n, 3 * n + 2) for n in range(first, behind)), (0, 0)],
        words=[None, *range(first, behind), None],
        parts=[None, *[1] * (size - 2), None],
    )
    logits = {
        name: np.array([-5, *values[first:behind], -5], dtype=np.float32)
        for name, values in (("start_logits", starts), ("end_logits", ends))
    }
    return Window(encoding, logits)


logits_of_eight = st.permutations(range(8)).map(lambda values: [float(value) for value in values])


@quick
@given(logits_of_eight, logits_of_eight, st.integers(1, 3))
def test_windows_lose_no_answer(starts: list[float], ends: list[float], longest: int) -> None:
    """Windows that share as many tokens as an answer may have give what one window gives."""
    made = forward_task("question-answering")
    options = with_parameters(made, max_answer_len=longest)
    whole = [window(0, 8, starts, ends)]
    parts = [window(first, first + 5, starts, ends) for first in (0, 3)]
    one: Any = made.postprocess([RowOutputs(QUESTION, whole)], QUESTION, options)
    merged: Any = made.postprocess([RowOutputs(QUESTION, parts)], QUESTION, options)
    best = max(
        starts[first] + ends[last]
        for first in range(8)
        for last in range(first, min(8, first + longest))
    )
    for answer in (one, merged):
        assert starts[answer["start"] // 3] + ends[answer["end"] // 3] == best
    assert 0 < merged["score"] <= one["score"]


def test_the_pipelines_answers_are_added_up() -> None:
    """Equal texts are one answer with the sum of their scores, also of two windows and any case."""
    context = "Ada saw ada"
    made = forward_task("question-answering")
    encoding = Encoding(
        ids=[0, 1, 2, 3, 99],
        type_ids=[0] * 5,
        tokens=["[CLS]", "Ada", "saw", "ada", "[SEP]"],
        offsets=[(0, 0), (0, 3), (4, 7), (8, 11), (0, 0)],
        words=[None, 0, 1, 2, None],
        parts=[None, 1, 1, 1, None],
    )
    logits = np.log(np.array([1, 4, 1, 5, 1], dtype=np.float32))
    seen = Window(encoding, {"start_logits": logits, "end_logits": logits})
    entry = TextInput("Q?", context)
    options = AnswerOptions("full", made.read_parameters({"max_answer_len": 1, "top_k": 2}), True)
    answer: Any = made.postprocess([RowOutputs(entry, [seen, seen])], entry, options)
    assert answer == [
        {"score": pytest.approx(0.82), "start": 8, "end": 11, "answer": "ada"},
        {"score": pytest.approx(0.02), "start": 4, "end": 7, "answer": "saw"},
    ]


@pytest.mark.parametrize("pipeline", [False, True])
def test_no_answer_may_be_the_best(pipeline: bool) -> None:
    """With handle_impossible_answer the window's first token stands for an empty answer."""
    made = Task(Head(vocabulary=vocabulary()))
    seen = window(0, 8, [0] * 8, [0] * 8)
    for logits in seen.outputs.values():
        logits[0] = 5
    rows = [RowOutputs(QUESTION, [seen])]
    for asked in (False, True):
        options = AnswerOptions(
            "full", made.read_parameters({"handle_impossible_answer": asked}), pipeline
        )
        answer: Any = made.postprocess(rows, QUESTION, options)
        assert bool(answer["answer"]) is not asked
        assert (answer["end"] == 0) is asked


def test_a_list_of_one_is_the_pipelines_one() -> None:
    """The pipeline takes a list of one question for the question; plain lists stay lists."""
    made = task("question-answering")
    one = [{"question": "Q?", "context": "C."}]
    for value, expected in (
        ({"inputs": one}, "x"),
        (one, ["x"]),
        ({"inputs": one * 2}, ["x", "x"]),
    ):
        inputs = made.parse(value)
        options = AnswerOptions("full", inputs.parameters, inputs.pipeline, inputs.many)
        assert made.assemble(["x"] * len(inputs.entries), options) == expected


def test_legacy_is_the_best_spans_text() -> None:
    """Whatever form the request had."""
    made = forward_task("question-answering")
    seen = window(0, 8, [0, 0, 9, 0, 0, 0, 0, 0], [0, 0, 0, 9, 0, 0, 0, 0])
    for pipeline in (False, True):
        options = AnswerOptions(LEGACY.shape, made.read_parameters({"top_k": 3}), pipeline)
        assert made.postprocess([RowOutputs(QUESTION, [seen])], QUESTION, options) == "ef gh"
