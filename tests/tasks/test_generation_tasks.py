"""Tasks that generate: what a request may set, and what its answer looks like."""

from typing import Any

import pytest

from flambeau import tasks
from flambeau.errors import PredictionError
from flambeau.tasks.base import (
    AnswerOptions,
    Chat,
    Continuation,
    GenerationTask,
    Head,
    Inputs,
    TextInput,
)
from flambeau.types import OutputShape
from tests.tasks.samples import error_of, task

DONE = Continuation(" you", 2, 1, "stop")
TOLD = {"prompt_tokens": 2, "generated_tokens": 1, "finish_reason": "stop"}
MESSAGES: list[Any] = [{"role": "user", "content": "Hi"}]


def generation_task(name: str, **config: Any) -> GenerationTask:
    made = tasks.load(name)(Head(config=config))
    assert isinstance(made, GenerationTask)
    return made


def answer(made: GenerationTask, value: Any, count: int = 1, shape: OutputShape = "full") -> Any:
    """What a request with this value is answered where the model says `DONE`."""
    inputs: Inputs = made.parse(value)
    options = AnswerOptions(shape, inputs.parameters, inputs.pipeline, inputs.many)
    answers = [made.postprocess([DONE] * count, entry, options) for entry in inputs.entries]
    return made.assemble(answers, options)


def test_answers_to_plain_texts() -> None:
    """Legacy is prompt and continuation; full adds counts and the reason."""
    made = generation_task("text-generation")
    assert answer(made, "hi", shape="legacy") == "hi you"
    assert answer(made, "hi") == {"generated_text": "hi you", **TOLD}
    assert answer(made, {"text": "hi", "parameters": {"return_full_text": False}}) == {
        "generated_text": " you",
        **TOLD,
    }


def test_answers_have_the_pipelines_shape() -> None:
    """One input gives a list of its sequences, a list of inputs a list of such lists."""
    made = generation_task("text-generation")
    one = [{"generated_text": "hi you"}]
    assert answer(made, {"inputs": "hi"}) == one
    assert answer(made, {"inputs": "hi"}, count=2) == one * 2
    assert answer(made, {"inputs": ["hi", "hi"]}) == [one, one]
    summarises = generation_task("summarization")
    short = {"summary_text": " you"}
    assert answer(summarises, {"inputs": "hi"}) == [short]
    assert answer(summarises, {"inputs": ["hi", "hi"]}) == [short, short]
    assert answer(summarises, {"inputs": ["hi", "hi"]}, count=2) == [[short, short]] * 2


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("summarization", "summary_text"),
        ("translation", "translation_text"),
        ("text2text-generation", "generated_text"),
    ],
)
def test_answers_of_models_with_an_encoder(name: str, key: str) -> None:
    """The text of their own under the task's key; legacy, the text alone."""
    made = generation_task(name)
    assert answer(made, "hi") == {key: " you", **TOLD}
    assert answer(made, "hi", shape="legacy") == " you"


def test_a_conversation_is_answered_with_the_models_message() -> None:
    """Behind the others, or as the rest of the assistant's last one."""
    made = generation_task("text-generation")
    chat = made.parse({"inputs": MESSAGES}).entries
    assert chat == [Chat(MESSAGES)]
    reply = {"role": "assistant", "content": " you"}
    assert answer(made, {"inputs": MESSAGES}) == [{"generated_text": [*MESSAGES, reply]}]
    begun: list[Any] = [*MESSAGES, {"role": "assistant", "content": "So"}]
    rest = {"role": "assistant", "content": "So you"}
    assert answer(made, {"inputs": begun}) == [{"generated_text": [*MESSAGES, rest]}]
    two = answer(made, {"inputs": [MESSAGES, MESSAGES]})
    assert two == [[{"generated_text": [*MESSAGES, reply]}]] * 2


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([{"role": "user"}], "a message's 'content' must be a string, not null"),
        ([{"role": "user", "content": 5}], "not a number"),
        ([{"role": 5, "content": "a"}], "an object with 'role' and 'content'"),
    ],
)
def test_messages_are_checked(messages: list[Any], told: str) -> None:
    """Each has a role and a text."""
    assert told in error_of(task("text-generation"), {"inputs": messages}).message


def test_the_models_parameters_for_a_task_are_followed() -> None:
    """A prefix goes before each text; the rest are settings that requests may overrule."""
    specific = {"summarization": {"prefix": "summarize: ", "num_beams": 3, "max_length": 50}}
    made = generation_task("summarization", task_specific_params=specific)
    inputs = made.parse({"inputs": "hi"})
    assert made.rows(inputs.entries[0], inputs.parameters) == [TextInput("summarize: hi")]
    assert made.defaults(inputs.parameters) == {"num_beams": 3, "max_length": 50}
    other = generation_task("text2text-generation", task_specific_params=specific)
    assert other.defaults(inputs.parameters) == {}


def test_languages_choose_a_translations_parameters() -> None:
    """`translation_en_to_fr` is where models like T5 have the prefix; mBART cannot do without."""
    specific = {"translation_en_to_fr": {"prefix": "to French: "}}
    made = generation_task("translation", task_specific_params=specific)
    inputs = made.parse({"inputs": "hi", "parameters": {"src_lang": "en", "tgt_lang": "fr"}})
    assert made.rows(inputs.entries[0], inputs.parameters) == [TextInput("to French: hi")]
    half = error_of(made, {"inputs": "hi", "parameters": {"src_lang": "en"}})
    assert "'src_lang' and 'tgt_lang' go together" in half.message
    needing = generation_task("translation", model_type="mbart")
    with pytest.raises(PredictionError, match="needs 'src_lang' and 'tgt_lang'"):
        needing.defaults(needing.parse({"inputs": "hi"}).parameters)


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
        ({"max_length": 0}, "'max_length' must be a whole number from 1 to 100000"),
        ({"min_new_tokens": -1}, "'min_new_tokens' must be a whole number from 0"),
        (
            {"min_new_tokens": 9, "max_new_tokens": 5},
            "must be at most 'max_new_tokens', which is 5",
        ),
        ({"min_p": 2}, "'min_p' must be a number from 0 to 1, not 2"),
        ({"typical_p": 0}, "'typical_p' must be a number above 0 and at most 1"),
        ({"repetition_penalty": 0}, "'repetition_penalty' must be a number from 0.01 to 100"),
        ({"no_repeat_ngram_size": -1}, "'no_repeat_ngram_size' must be"),
        ({"num_beams": 33}, "'num_beams' must be a whole number from 1 to 32, not 33"),
        ({"num_return_sequences": 0}, "'num_return_sequences' must be"),
        ({"num_beams": 2, "num_return_sequences": 3}, "at most 'num_beams', which is 2"),
        ({"length_penalty": "a"}, "'length_penalty' must be a number"),
        ({"early_stopping": "always"}, '"never"'),
        ({"stop": ""}, "'stop' must be a text of 1 to 256 characters, or a list"),
        ({"stop_strings": ["a"] * 17}, "a list of at most 16 of them"),
        ({"stop": [5]}, "'stop' must be"),
        ({"stream": "yes"}, "'stream' must be true or false"),
        ({"stream": True, "num_beams": 2}, "'stream' must be false with several beams"),
        ({"return_full_text": 1}, "'return_full_text' must be true or false"),
        ({"max_tokens": 5}, "unknown parameters max_tokens (known: "),
    ],
)
def test_generation_parameters_are_checked(parameters: dict[str, object], message: str) -> None:
    """Each parameter's range is enforced before anything runs; the value and the range are named."""
    error = error_of(task("text-generation"), {"inputs": "a", "parameters": parameters})
    assert message in error.message
    assert len(error.message) < 700


@pytest.mark.parametrize("zero", [0, 0.0, -0.0])
def test_temperature_zero_is_greedy(zero: float) -> None:
    """As OpenAI's clients expect, whatever else is asked for; the bounds themselves are allowed."""
    made = task("text-generation")
    assert isinstance(made, GenerationTask)
    checked = made.read_parameters({"temperature": zero, "do_sample": True, "top_p": 0.5})
    assert (checked.do_sample, checked.temperature) == (False, None)
    bounds = made.read_parameters({"temperature": 0.01, "top_p": 1, "top_k": 0})
    assert (bounds.do_sample, bounds.temperature, bounds.top_p) == (None, 0.01, 1)


def test_white_space_is_a_prompt() -> None:
    """Generation may go on from white space, but not from nothing."""
    assert task("text-generation").parse(" ").entries == [TextInput(" ")]
    assert "empty" in error_of(task("text-generation"), "").message


def test_a_list_is_not_streamed() -> None:
    """Its answers would have to be told apart."""
    made = task("text-generation")
    error = error_of(made, {"inputs": ["a", "b"], "parameters": {"stream": True}})
    assert "'stream' must be false for a list" in error.message
    assert made.parse({"inputs": ["a"], "parameters": {"stream": True}}).many
