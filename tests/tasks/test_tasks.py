"""What tasks read and what they answer."""

import json
from typing import Any

import numpy as np
import pytest

from flambeau import tasks
from flambeau.errors import ConfigError, ErrorKind, PredictionError
from flambeau.tasks.base import (
    MAX_ENTRIES,
    AnswerOptions,
    BaseTask,
    Continuation,
    Encoding,
    ForwardTask,
    GenerationTask,
    Head,
    TextInput,
    infer_task,
)

FULL = AnswerOptions("full")
LEGACY = AnswerOptions("legacy")


def task(name: str, labels: list[str] | None = None, problem_type: str | None = None) -> BaseTask:
    return tasks.load(name)(Head(labels or [], problem_type))


def forward_task(name: str, *args: Any) -> ForwardTask:
    made = task(name, *args)
    assert isinstance(made, ForwardTask)
    return made


def spaced_encoding(text: str, part: int = 0) -> Encoding:
    """Each word of three letters or more is two tokens; special tokens at both ends."""
    tokens, offsets, words = ["[CLS]"], [(0, 0)], [None]
    start = 0
    all_words: list[int | None] = list(words)
    for number, word in enumerate(text.split(" ")):
        pieces = [word[:2], word[2:]] if len(word) > 2 else [word]
        for piece in pieces:
            tokens.append(piece)
            offsets.append((start, start + len(piece)))
            all_words.append(number)
            start += len(piece)
        start += 1
    count = len(tokens) + 1
    return Encoding(
        ids=list(range(count)),
        type_ids=[0] * count,
        tokens=[*tokens, "[SEP]"],
        offsets=[*offsets, (0, 0)],
        words=[*all_words, None],
        parts=[None, *[part] * (count - 2), None],
    )


def one_hot(best: list[int], classes: int, height: float = 5.0) -> np.ndarray[Any, Any]:
    return (np.eye(classes, dtype=np.float32) * height)[best]


def error_of(made: BaseTask, value: object) -> PredictionError:
    with pytest.raises(PredictionError) as caught:
        made.parse(value)
    assert caught.value.kind is ErrorKind.INVALID_INPUT
    return caught.value


def test_every_file_is_a_task_whose_example_it_accepts() -> None:
    """The folder is the registry: each tag loads, is named after its file, accepts its example."""
    assert tasks.available() == [
        "question-answering",
        "text-classification",
        "text-generation",
        "token-classification",
    ]
    for name in tasks.available():
        made = task(name)
        assert made.name == name
        assert len(made.parse(made.example).entries) == 1


def test_unknown_task_names_the_known_ones() -> None:
    """A wrong tag is a configuration error that lists the right ones."""
    with pytest.raises(ConfigError, match=r"'fill-mask'.*text-classification"):
        tasks.load("fill-mask")


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("BertForSequenceClassification", "text-classification"),
        ("RobertaForTokenClassification", "token-classification"),
        ("DistilBertForQuestionAnswering", "question-answering"),
        ("FlaubertForQuestionAnsweringSimple", "question-answering"),
        ("GPT2LMHeadModel", "text-generation"),
        ("LlamaForCausalLM", "text-generation"),
        ("BertModel", None),
    ],
)
def test_task_is_inferred_from_the_architecture(architecture: str, expected: str | None) -> None:
    """The head's class name says what a model is for."""
    assert infer_task({"architectures": [architecture]}) == expected


def test_no_architectures_infer_nothing() -> None:
    """A configuration without (or with broken) architectures names no task."""
    assert infer_task({}) is None
    assert infer_task({"architectures": "Bert"}) is None
    assert infer_task({"architectures": [3]}) is None


@pytest.mark.parametrize(
    "value",
    [
        "good film",
        pytest.param(b"good film", id="bytes"),
        bytearray(b"good film"),
        {"text": "good film"},
        {"text": "good film", "target": 1},
        {"inputs": "good film"},
        {"inputs": {"text": "good film"}},
        {"data": "good film"},
        b'{"text": "good film", "target": null}',
        "{'text': 'good film', 'target': None}",
        "  {'text': 'good film'}\n",
        '{"inputs": "good film", "parameters": null}',
    ],
)
@pytest.mark.parametrize("name", ["text-classification", "token-classification", "text-generation"])
def test_each_form_of_one_text_is_read(name: str, value: object) -> None:
    """Plain text, bytes, objects, JSON and Python-literal texts mean the same."""
    inputs = task(name).parse(value)
    assert [entry.text for entry in inputs.entries] == ["good film"]
    assert not inputs.many


@pytest.mark.parametrize(
    "value",
    [["a", "b"], {"inputs": ["a", "b"]}, b'["a", "b"]', '{"inputs": ["a", {"text": "b"}]}'],
)
def test_lists_are_many(value: object) -> None:
    """A list of texts is read in order and wants a list back."""
    inputs = task("text-classification").parse(value)
    assert [entry.text for entry in inputs.entries] == ["a", "b"]
    assert inputs.many


@pytest.mark.parametrize(
    "text",
    ["{not an object", "[see above] it was good", "{'a': open('x')}", "{" * 5_000, "[" * 100_000],
    ids=["prose", "list", "call", "open objects", "open lists"],
)
def test_text_that_only_looks_structured_stays_text(text: str) -> None:
    """A text that starts like an object and is none is classified as it stands."""
    assert task("text-classification").parse(text).entries == [TextInput(text)]


@pytest.mark.parametrize(
    "text",
    [
        "{'text': " + "-" * 500_000 + "1}",
        "{'text': " + "(" * 90 + "1" + ")" * 90 + "}",
        "{" + "'\\" * 100_000,
    ],
    ids=["signs", "brackets", "escapes"],
)
def test_hostile_literals_are_not_parsed(text: str) -> None:
    """Literals that would cost Python's parser much stay plain text, without delay."""
    assert task("text-classification").parse(text).entries == [TextInput(text)]


def test_text_pair_is_kept() -> None:
    """A pair, as for entailment, reaches the tokenizer as a pair."""
    inputs = task("text-classification").parse({"text": "a", "text_pair": "b"})
    assert inputs.entries == [TextInput("a", "b")]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("", "the text is empty"),
        (b" \n", "the text is empty"),
        (b"caf\xe9", "not UTF-8 (byte 3 is 0xe9)"),
        ('{"text": "\\ud800"}', "surrogate"),
        ({"foo": 1}, "the object has no 'text'"),
        ({}, "the object has no 'text'"),
        ({"text": 3}, "must be a string, not a number"),
        ({"text": "a", "text_pair": 1}, "'text_pair' must be a string"),
        (None, "must be a string, not null"),
        (True, "must be a string, not a boolean"),
        ([], "the list is empty"),
        (["a", ""], "entry 1 of the list: the text is empty"),
        (["a", ["b"]], "not a list"),
        (["a"] * (MAX_ENTRIES + 1), "at most 1000"),
        ({"inputs": "a", "parameters": 3}, "'parameters' must be an object"),
        ({"inputs": "a", "parameters": {"top_q": 3}}, "unknown parameters top_q (known: top_k)"),
        ({"inputs": "a", "parameters": {"top_k": 0}}, "'top_k' must be a whole number"),
    ],
)
def test_wrong_input_is_said_to_be_wrong(value: object, problem: str) -> None:
    """Errors name the problem; the accepted form is shown where the form is the problem."""
    assert problem in error_of(task("text-classification"), value).message


def test_errors_show_the_accepted_form() -> None:
    """Whoever sends the wrong thing sees the right one."""
    assert '{"text": "..."}' in error_of(task("text-classification"), {}).message
    assert '"context"' in error_of(task("question-answering"), "hello").message


@pytest.mark.parametrize(
    "value",
    [
        {"question": "Q?", "context": "C."},
        '{"question" :"Q?", "context":"C."}',
        b"{'question': 'Q?', 'context': 'C.'}",
        {"inputs": {"question": "Q?", "context": "C."}},
    ],
)
def test_question_forms(value: object) -> None:
    """A question and its context come as an object, JSON or Python-literal text."""
    assert task("question-answering").parse(value).entries == [TextInput("Q?", "C.")]


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
    ],
)
def test_wrong_questions(value: object, problem: str) -> None:
    """Anything but a question with a context is refused."""
    assert problem in error_of(task("question-answering"), value).message


def test_classification_answers() -> None:
    """Legacy is the best label; full is softmax scores, the best first, cut by top_k."""
    made = forward_task("text-classification", ["no", "yes", "maybe"])
    outputs = {"logits": np.array([0.0, 2.0, 1.0], dtype=np.float32)}
    encoding, entry = spaced_encoding("x"), TextInput("x")
    assert made.postprocess(outputs, encoding, entry, LEGACY) == "yes"
    answer: Any = made.postprocess(outputs, encoding, entry, FULL)
    assert [row["label"] for row in answer] == ["yes", "maybe", "no"]
    assert sum(row["score"] for row in answer) == pytest.approx(1)
    assert answer[0]["score"] == pytest.approx(np.exp(2) / (1 + np.exp(1) + np.exp(2)))
    best: Any = made.postprocess(outputs, encoding, entry, AnswerOptions("full", {"top_k": 1}))
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
    answer: Any = made.postprocess(outputs, spaced_encoding("x"), TextInput("x"), FULL)
    assert [row["score"] for row in answer] == expected


def test_unnamed_labels_are_numbered() -> None:
    """A class without a name is LABEL_n, as in Transformers."""
    made = forward_task("text-classification", ["only"])
    outputs = {"logits": np.array([0.0, 1.0], dtype=np.float32)}
    assert made.postprocess(outputs, spaced_encoding("x"), TextInput("x"), LEGACY) == "LABEL_1"


IOB = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def entities(text: str, tags: list[int], labels: list[str] | None = None) -> list[tuple[str, str]]:
    """(group, word) of the answer; `tags` has one label per token that is not special."""
    made = forward_task("token-classification", labels or IOB)
    outputs = {"logits": one_hot([0, *tags, 0], len(labels or IOB))}
    answer: Any = made.postprocess(outputs, spaced_encoding(text), TextInput(text), FULL)
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
    answer = made.postprocess(outputs, spaced_encoding("Bo"), TextInput("Bo"), LEGACY)
    assert answer == [["[CLS]", "O"], ["Bo", "B-PER"], ["[SEP]", "O"]]
    assert json.loads(json.dumps(answer)) == answer


def slow_best_span(starts: Any, ends: Any, limit: int) -> tuple[int, int, float]:
    best = (0, 0, -1.0)
    for first in range(len(starts)):
        for last in range(first, min(first + limit, len(starts))):
            if starts[first] * ends[last] > best[2]:
                best = (first, last, starts[first] * ends[last])
    return best


def test_best_span_is_the_best() -> None:
    """The windowed search finds what trying all spans finds, at every length."""
    from flambeau.tasks.question_answering import best_span

    random = np.random.default_rng(0)
    for count in [1, 2, 3, 29, 30, 31, 90]:
        starts, ends = random.random(count), random.random(count)
        first, last, score = best_span(starts, ends, 5)
        assert (first, last) == slow_best_span(starts, ends, 5)[:2]
        assert score == pytest.approx(starts[first] * ends[last])


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
    answer: Any = made.postprocess(outputs, encoding, entry, FULL)
    assert made.postprocess(outputs, encoding, entry, LEGACY) == answer["answer"]
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


def test_no_context_left_is_an_empty_answer() -> None:
    """Where truncation left nothing of the context there is no answer."""
    made = forward_task("question-answering")
    encoding = Encoding([1, 2], [0, 0], ["[CLS]", "q"], [(0, 0), (0, 1)], [None, 0], [None, 0])
    outputs = {"start_logits": np.zeros(2, np.float32), "end_logits": np.zeros(2, np.float32)}
    entry = TextInput("q", "context")
    assert made.postprocess(outputs, encoding, entry, LEGACY) == ""
    assert made.postprocess(outputs, encoding, entry, FULL) == {
        "answer": "",
        "score": 0.0,
        "start": 0,
        "end": 0,
    }


def test_generation_answers() -> None:
    """Legacy is prompt and continuation; full adds counts and the reason."""
    made = task("text-generation")
    assert isinstance(made, GenerationTask)
    done = Continuation(" you", 2, 1, "stop")
    assert made.postprocess(done, TextInput("hi"), LEGACY) == "hi you"
    assert made.postprocess(done, TextInput("hi"), FULL) == {
        "generated_text": "hi you",
        "prompt_tokens": 2,
        "generated_tokens": 1,
        "finish_reason": "stop",
    }


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"max_new_tokens": 0}, "'max_new_tokens' must be a whole number from 1 to 100000, not 0"),
        ({"max_new_tokens": "5"}, 'not "5"'),
        ({"temperature": 1e-40}, "must be 0 (greedy) or a number from 0.01 to 100, not 1e-40"),
        ({"temperature": 0.009}, "'temperature' must be 0"),
        ({"temperature": -1}, "'temperature' must be 0"),
        ({"temperature": 101}, "'temperature' must be 0"),
        ({"temperature": float("nan")}, "to 100, not NaN"),
        ({"temperature": float("inf")}, "to 100, not Infinity"),
        ({"temperature": False}, "to 100, not false"),
        ({"temperature": 0, "top_p": 0}, "'top_p' must be a number above 0 and at most 1, not 0"),
        ({"top_p": 1.5}, "'top_p' must be"),
        ({"top_k": -1}, "'top_k' must be a whole number from 0"),
        ({"top_k": 10**400}, "'top_k' must be a whole number from 0"),
        ({"top_k": 10**5000}, "to 1000000, not a number"),
        ({"temperature": b"1"}, "to 100, not bytes"),
        ({"do_sample": "yes"}, "'do_sample' must be true or false"),
        ({"seed": -1}, "'seed' must be"),
        ({"seed": 2**70}, "'seed' must be"),
    ],
)
def test_generation_parameters_are_checked(parameters: dict[str, object], message: str) -> None:
    """Each parameter's range is enforced before anything runs; the value and the range are named."""
    error = error_of(task("text-generation"), {"inputs": "a", "parameters": parameters})
    assert message in error.message
    assert len(error.message) < 300


@pytest.mark.parametrize("zero", [0, 0.0, -0.0])
def test_temperature_zero_is_greedy(zero: float) -> None:
    """As OpenAI's clients expect, whatever else is asked for; the bounds themselves are allowed."""
    made = task("text-generation")
    assert isinstance(made, GenerationTask)
    checked = made.generation_parameters({"temperature": zero, "do_sample": True, "top_p": 0.5})
    assert (checked.do_sample, checked.temperature) == (False, None)
    bounds = made.generation_parameters({"temperature": 0.01, "top_p": 1, "top_k": 0})
    assert (bounds.do_sample, bounds.temperature, bounds.top_p) == (None, 0.01, 1)


def test_white_space_is_a_prompt() -> None:
    """Generation may go on from white space, but not from nothing."""
    assert task("text-generation").parse(" ").entries == [TextInput(" ")]
    assert "empty" in error_of(task("text-generation"), "").message
