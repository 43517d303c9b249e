"""What the native handler answers to requests, with tiny real models."""

import logging
from typing import Any

import msgspec
import pytest
import torch

from flambeau.errors import ErrorKind, LoadError, PredictionError
from flambeau.handlers.limits import MAX_REQUEST_TOKENS
from flambeau.tasks import load as load_task
from flambeau.tasks.base import Head
from flambeau.testing.models import MAX_POSITIONS
from flambeau.testing.native import ServedNative
from tests.handlers.native_models import (
    LABELS,
    QUESTION,
    TEXTS,
    Models,
    classification_scores,
    models,
    one_thread,
)

__all__ = ["models", "one_thread"]  # fixtures


def test_legacy_classification_is_a_plain_label(models: Models) -> None:
    """Legacy answers are text; the header turns one request's answer into the full shape."""
    served = ServedNative(models.get("text-classification"), "legacy")
    assert served("a great movie")[0] in LABELS
    assert served.headers(0)["content-type"] == "text/plain; charset=utf-8"
    full = served("a great movie", headers={"X-Flambeau-Output": "full"})[0]
    assert len(full) == len(LABELS)
    assert served.headers(0)["content-type"] == "application/json"


def test_settings_choose_the_output(models: Models) -> None:
    """The archive's `output` wins over the handler's default, and `info` tells what holds."""
    folder = models.get("text-classification")
    served = ServedNative(folder, "legacy", output="full")
    assert len(served("a")[0]) == len(LABELS)
    assert served.handler.info() == {
        "task": "text-classification",
        "engine": "torch",
        "output": "full",
        "max_length": str(MAX_POSITIONS),
        "device": "cpu",
        "precision": "fp32",
        "batching": "packed",
    }
    assert ServedNative(folder).handler.info()["output"] == "full"
    assert ServedNative(folder, "legacy").handler.info()["output"] == "legacy"


def test_wrong_output_header_is_that_items_error(models: Models) -> None:
    """An unknown shape is refused and the allowed ones are named."""
    answer = ServedNative(models.get("text-classification"))(
        "a", headers={"x-flambeau-output": "xml"}
    )[0]
    assert isinstance(answer, PredictionError)
    assert answer.kind is ErrorKind.INVALID_INPUT
    assert "legacy, full" in answer.message


def test_every_answer_says_tokens_and_truncation(models: Models) -> None:
    """Headers count the tokens that were read and tell whether text was cut."""
    served = ServedNative(models.get("text-classification"))
    served("the movie", "the " * 500, ["the movie", "the " * 500])
    assert served.headers(0)["x-flambeau-tokens"] == "4"
    assert served.headers(0)["x-flambeau-truncated"] == "false"
    assert served.headers(1)["x-flambeau-tokens"] == str(MAX_POSITIONS)
    assert served.headers(1)["x-flambeau-truncated"] == "true"
    assert served.headers(2)["x-flambeau-tokens"] == str(MAX_POSITIONS + 4)
    assert served.headers(2)["x-flambeau-truncated"] == "true"


def test_max_length_is_the_smallest_limit(models: Models) -> None:
    """The archive may shorten what the model reads, and cannot lengthen it."""
    folder = models.get("text-classification", "roberta")
    assert ServedNative(folder, max_length="10").handler.info()["max_length"] == "10"
    assert ServedNative(folder, max_length=10_000).handler.info()["max_length"] == str(
        MAX_POSITIONS
    )
    with pytest.raises(LoadError, match="max_length is 2"):
        ServedNative(folder, max_length=2)


def test_a_question_longer_than_the_model_is_refused(models: Models) -> None:
    """Only the context is cut; a question that leaves no room is that item's own error."""
    served = ServedNative(models.get("question-answering"))
    bad, good, cut = served(
        {"question": "who " * 300, "context": "Jim"},
        QUESTION,
        {"question": "who", "context": "Jim " * 300},
    )
    assert isinstance(bad, PredictionError)
    assert bad.kind is ErrorKind.INVALID_INPUT
    assert "question alone is longer" in bad.message
    assert good == served(QUESTION)[0]
    assert cut["answer"]


def test_bad_items_do_not_touch_their_neighbours(models: Models) -> None:
    """Each row has its own answer or its own error, in order."""
    served = ServedNative(models.get("text-classification"))
    answers = served("good", b"\xff", "", "movie", ["a", ""])
    assert [isinstance(answer, PredictionError) for answer in answers] == [
        False,
        True,
        True,
        False,
        True,
    ]
    for place, text in ((0, "good"), (3, "movie")):
        alone = classification_scores(served(text)[0])
        assert classification_scores(answers[place]) == pytest.approx(alone, abs=1e-6)


def test_lists_are_answered_in_order(models: Models) -> None:
    """A list in one request gets the answers that its entries get alone."""
    served = ServedNative(models.get("text-classification"), "legacy")
    assert served(TEXTS) == [served(*TEXTS)]
    assert served.headers(0)["content-type"] == "text/plain; charset=utf-8"
    served(TEXTS)
    assert served.headers(0)["content-type"] == "application/json"


def test_rows_in_every_form(models: Models) -> None:
    """`data`, `body`, and form fields without either are the same request."""
    served = ServedNative(models.get("text-classification"))
    expected = served("a movie")[0]
    rows: list[dict[str, object]] = [
        {"data": b"a movie"},
        {"body": {"text": "a movie"}},
        {"text": b"a movie"},
        {"text": "a movie", "target": b"1"},
        {"data": None, "body": "a movie"},
    ]
    for row in rows:
        assert served.rows(row)[0] == expected
    questions = ServedNative(models.get("question-answering"))
    form: dict[str, object] = {
        "question": QUESTION["question"].encode(),
        "context": QUESTION["context"].encode(),
    }
    assert questions.rows(form)[0] == questions(QUESTION)[0]
    assert isinstance(served.rows({})[0], PredictionError)


def test_a_task_that_fails_tells_no_text(models: Models, caplog: pytest.LogCaptureFixture) -> None:
    """An error while an answer is made is that item's own; its message stays out of the log."""

    class Quoting(load_task("text-classification")):  # type: ignore[misc] # a class by name
        def postprocess(self, rows: Any, entry: Any, options: Any) -> Any:
            if "zebra" in entry.text:
                raise ValueError(entry.text)
            return "fine"

    served = ServedNative(models.get("text-classification"))
    model = served.handler._model
    served.handler._model = msgspec.structs.replace(model, task=Quoting(Head()))
    good, bad = served("horse", "zebra")
    assert good == "fine"
    assert isinstance(bad, PredictionError)
    assert "zebra" not in bad.message + caplog.text
    assert "ValueError" in caplog.text


def test_users_texts_stay_out_of_the_log(models: Models, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a request holds, right or wrong, the log does not."""
    caplog.set_level(logging.DEBUG, logger="flambeau")
    served = ServedNative(models.get("text-classification"))
    served("zebra", {"zebra": "zebra"}, b"zebra\xff")
    assert "zebra" not in caplog.text
    assert sum(record.levelno == logging.INFO for record in caplog.records) == 1


def test_a_form_that_is_no_input_gets_a_hint(models: Models) -> None:
    """`curl -d` sends a form unless told otherwise; the error says so and how to mend it."""
    served = ServedNative(models.get("text-classification"))
    (error,) = served.rows({"the movie was great": bytearray()})
    assert isinstance(error, PredictionError)
    assert error.kind is ErrorKind.INVALID_INPUT
    assert "Content-Type: text/plain" in error.message


def test_a_list_has_a_price_limit(models: Models) -> None:
    """A list over the limit is refused before the model runs; its neighbours are answered."""
    served = ServedNative(models.get("text-classification"))
    fitting = MAX_REQUEST_TOKENS // MAX_POSITIONS
    cheap, dear = served("good", ["the " * 500] * (fitting + 1))
    assert cheap == served("good")[0]
    assert isinstance(dear, PredictionError)
    assert dear.kind is ErrorKind.INVALID_INPUT
    cost = (fitting + 1) * MAX_POSITIONS
    assert f"{fitting + 1} entries costs {cost} tokens" in dear.message
    assert f"at most {MAX_REQUEST_TOKENS}. Send smaller lists" in dear.message


def test_what_a_list_may_generate_counts(models: Models) -> None:
    """Tokens to be generated cost as much as tokens read."""
    served = ServedNative(models.get("text-generation", "gpt2"))
    served.handler._model = msgspec.structs.replace(served.handler._model, positions=None)
    parameters = {"max_new_tokens": MAX_REQUEST_TOKENS // 2}
    (error,) = served({"inputs": ["a", "b"], "parameters": parameters})
    assert isinstance(error, PredictionError)
    assert "2 entries costs" in error.message


@pytest.mark.parametrize(
    ("value", "told"),
    [(None, "not null"), (5, "not a number"), (False, "not a boolean"), ([None], "not null")],
)
def test_json_that_is_no_text_is_named(models: Models, value: object, told: str) -> None:
    """A body of JSON's null or of a number is an error that says what came."""
    served = ServedNative(models.get("text-classification"))
    (error,) = served(value)
    assert isinstance(error, PredictionError)
    assert error.kind is ErrorKind.INVALID_INPUT
    assert told in error.message


def test_sampling_that_parameters_break_is_the_clients_error(models: Models) -> None:
    """Where a prompt fails with the request's parameters only, they are named; else it is ours."""
    served = ServedNative(models.get("text-generation", "gpt2"))
    network: Any = served.handler._model.engine
    weight = network._model.transformer.ln_f.weight.data

    def ask(**parameters: object) -> list[Any]:
        return served({"inputs": "the torch", "parameters": {"max_new_tokens": 3, **parameters}})

    weight.mul_(2e38 / served_logits(network))
    (extreme,) = ask(temperature=0.01)
    assert isinstance(extreme, PredictionError)
    assert extreme.kind is ErrorKind.INVALID_INPUT
    assert "cannot sample with temperature 0.01" in extreme.message
    assert not isinstance(ask(temperature=1)[0], PredictionError)
    weight.fill_(float("nan"))
    (broken,) = ask(temperature=1)
    assert isinstance(broken, PredictionError)
    assert broken.kind is ErrorKind.HANDLER_FAILED


def served_logits(engine: Any) -> float:
    """The largest score that an engine's model gives for a token."""
    with torch.inference_mode():
        return float(engine._model(torch.tensor([[1, 2, 3]])).logits.abs().max())


def test_temperature_zero_is_greedy(models: Models) -> None:
    """Zero gives what `do_sample: false` gives, in both shapes."""
    served = ServedNative(models.get("text-generation", "gpt2"), "legacy")
    bodies = [
        {"text": "the torch", "parameters": {"max_new_tokens": 8, **parameters}}
        for parameters in ({"temperature": 0}, {"temperature": 0, "top_k": 5}, {"do_sample": False})
    ]
    assert len(set(served(*bodies))) == 1


@pytest.mark.parametrize(
    "parameters", [{"\ud800": 1}, {"top_k": "\ud800"}, {"truncation": "\ud800"}]
)
def test_half_a_surrogate_pair_in_parameters_is_an_error_that_can_be_sent(
    models: Models, parameters: dict[str, Any]
) -> None:
    """JSON can hold one, and UTF-8, in which answers are sent, cannot."""
    served = ServedNative(models.get("text-classification"))
    wrong, good = served({"inputs": "a", "parameters": parameters}, "good")
    assert isinstance(wrong, PredictionError)
    assert wrong.kind is ErrorKind.INVALID_INPUT
    assert wrong.message.encode("utf-8")
    assert isinstance(good, list)


def test_what_cannot_be_read_is_refused_before_it_is_tokenised(models: Models) -> None:
    """Characters over all rows, and windows by their number: no time is spent to find out."""
    served = ServedNative(models.get("text-classification"))
    window = {"truncation": "window"}
    long, many = served(
        {"inputs": ["b " * 100_000] * 50, "parameters": window},
        {"inputs": "b " * 100_000, "parameters": window | {"max_length": 4}},
    )
    for answer, reason in ((long, "50 rows of 10000000 characters"), (many, "in windows of 4")):
        assert isinstance(answer, PredictionError)
        assert reason in answer.message


def test_a_forms_parameters_are_json(models: Models) -> None:
    """A form can send no object."""
    served = ServedNative(models.get("text-classification"))
    (answer,) = served.rows({"inputs": b"good", "parameters": b'{"top_k": 1}'})
    assert len(answer) == 1
