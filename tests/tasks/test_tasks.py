"""What tasks read and what they answer."""

from typing import get_args

import pytest

from flambeau import tasks
from flambeau.errors import ConfigError
from flambeau.tasks.base import (
    MAX_ENTRIES,
    TextInput,
    infer_task,
)
from flambeau.types import TaskName
from tests.tasks.samples import error_of, task


def test_every_file_is_a_task_whose_example_it_accepts() -> None:
    """The folder is the registry: each tag loads, is named after its file, accepts its example."""
    assert tasks.available() == sorted(get_args(TaskName))
    for name in tasks.available():
        made = task(name)
        assert made.name == name
        assert len(made.parse(made.example).entries) == 1


def test_unknown_task_names_the_known_ones() -> None:
    """A wrong tag is a configuration error that lists the right ones."""
    with pytest.raises(ConfigError, match=r"'juggling'.*text-classification"):
        tasks.load("juggling")


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("BertForSequenceClassification", "text-classification"),
        ("RobertaForTokenClassification", "token-classification"),
        ("DistilBertForQuestionAnswering", "question-answering"),
        ("FlaubertForQuestionAnsweringSimple", "question-answering"),
        ("GPT2LMHeadModel", "text-generation"),
        ("LlamaForCausalLM", "text-generation"),
        ("BertModel", "feature-extraction"),
        ("BertForPreTraining", None),
        ("T5ForConditionalGeneration", "text2text-generation"),
        ("MarianMTModel", "translation"),
    ],
)
def test_task_is_inferred_from_the_architecture(architecture: str, expected: str | None) -> None:
    """The head's class name says what a model is for."""
    assert infer_task({"architectures": [architecture]}) == expected


def test_sentence_transformers_models_are_told_by_what_it_saved() -> None:
    """Modules make vectors whatever the model's class; a marked model with one label ranks."""
    assert infer_task({"architectures": ["Qwen3ForCausalLM"]}, makes_vectors=True) == "embeddings"
    config: dict[str, object] = {"architectures": ["BertForSequenceClassification"]}
    assert infer_task(config | {"id2label": {"0": "LABEL_0"}}) == "text-classification"
    marked = config | {"sentence_transformers": {"version": "4.1.0"}}
    assert infer_task(marked | {"id2label": {"0": "LABEL_0"}}) == "text-ranking"
    old = {"sbert_ce_default_activation_function": None, "num_labels": 1}
    assert infer_task(config | old) == "text-ranking"
    three = {"id2label": {"0": "no", "1": "yes", "2": "maybe"}}
    assert infer_task(marked | three) == "text-classification"


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
    assert [(entry.text, entry.pair) for entry in inputs.entries] == [("a", "b")]


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
        (
            {"inputs": "a", "parameters": {"top_q": 3}},
            "unknown parameters top_q (known: details, function_to_apply, max_length, padding,"
            " return_all_scores, top_k, truncation)",
        ),
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
    ("given", "read"),
    [(None, None), ("window", "window"), (True, "cut"), ("only_first", "cut"), (False, "refuse")],
)
def test_truncation_may_be_given_as_to_a_tokenizer(given: object, read: str | None) -> None:
    """What clients of the pipelines send for the tokenizer is understood."""
    made = task("text-classification")
    assert made.read_parameters({"truncation": given}).truncation == read


def test_wrong_truncation_names_what_is_allowed() -> None:
    """The three ways are in the error."""
    value = {"inputs": "a", "parameters": {"truncation": "shorten"}}
    message = error_of(task("text-classification"), value).message
    assert "'truncation' must be " in message
    assert all(f'"{way}"' in message for way in ("cut", "window", "refuse"))
