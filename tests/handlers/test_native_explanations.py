"""What the native handler answers to requests for explanations, with tiny real models."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flambeau.archive.graphs import Form
from flambeau.errors import ErrorKind, PredictionError
from flambeau.handlers.export import export
from flambeau.handlers.export_request import ExportRequest
from flambeau.handlers.native_runs import NativeRuns
from flambeau.handlers.prepare import TRACED_FILE
from flambeau.testing.models import MAX_POSITIONS, Architecture
from flambeau.testing.native import ServedNative
from flambeau.types import TaskName
from tests.handlers.native_models import LABELS, QUESTION, Models, models, one_thread
from tests.handlers.test_native_runs import Worker

__all__ = ["models", "one_thread"]  # fixtures

EXPLAIN = {"explain": "True"}
LEGACY = {**EXPLAIN, "X-Flambeau-Output": "legacy"}
TEXT = "Ada  Lovelace was a great 🔥 model\nin Paris"

Served = Callable[..., ServedNative]


@pytest.fixture(scope="module")
def served(models: Models) -> Served:
    """`served(task, architecture)`: a handler for each, made once."""
    made: dict[tuple[str, str], ServedNative] = {}

    def get(task: TaskName, architecture: Architecture = "bert") -> ServedNative:
        key = (task, architecture)
        if key not in made:
            made[key] = ServedNative(models.get(task, architecture))
        return made[key]

    return get


def with_parameters(inputs: Any, **parameters: Any) -> dict[str, Any]:
    return {"inputs": inputs, "parameters": parameters}


def refusal(answer: Any) -> str:
    assert isinstance(answer, PredictionError)
    assert answer.kind is ErrorKind.INVALID_INPUT
    return answer.message


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "gpt2"])
def test_words_are_of_the_text_and_add_up(served: Served, architecture: Architecture) -> None:
    """Offsets point into the user's own string; words and special tokens sum to the difference."""
    model = served("text-classification", architecture)
    (answer,) = model(TEXT, headers=EXPLAIN)
    assert [TEXT[word["start"] : word["end"]] for word in answer["words"]] == [
        word["word"] for word in answer["words"]
    ]
    assert "".join(word["word"] for word in answer["words"]) == "".join(TEXT.split())
    (best, *_) = model(TEXT)[0]
    assert (answer["target"], answer["score"]) == (best["label"], pytest.approx(best["score"]))
    assert (answer["method"], answer["n_steps"], answer["precision"]) == (
        "integrated_gradients",
        50,
        "fp32",
    )
    total = sum(token["importance"] for token in answer["tokens"])
    difference = answer["value"] - answer["baseline_value"]
    assert total - difference == pytest.approx(answer["delta"], abs=1e-5)
    assert abs(answer["delta"]) < 0.02
    special = sum(t["importance"] for t in answer["tokens"] if t["start"] is None)
    assert sum(word["importance"] for word in answer["words"]) == pytest.approx(total - special)


def test_legacy_answers_are_torchserve_s(served: Served) -> None:
    """Its keys, its tokens, importances divided by their norm, and its target beside the text."""
    model = served("text-classification")
    body = b"{'text': 'a great movie', 'target': 1}"
    (answer,) = model(body, headers=LEGACY)
    assert answer.keys() == {"words", "importances", "delta"}
    assert answer["words"] == ["[CLS]", "a", "great", "movie", "[SEP]"]
    assert np.linalg.norm(answer["importances"]) == pytest.approx(1)
    (full,) = model(json.dumps({"text": "a great movie", "target": LABELS[1]}), headers=EXPLAIN)
    own = np.array([token["importance"] for token in full["tokens"]])
    assert answer["importances"] == pytest.approx(own / np.linalg.norm(own))
    assert answer["delta"] == full["delta"]
    assert full["target"] == LABELS[1]
    assert model.headers(0)["x-flambeau-explanation"] == "integrated_gradients"
    words = served("text-classification", "roberta")("a great movie", headers=LEGACY)[0]["words"]
    assert "".join(words[1:-1]) == "agreatmovie"


def test_targets_of_tokens(served: Served) -> None:
    """All entities, a word, a stretch, a label of one's choice, or TorchServe's pair of numbers."""
    model = served("token-classification")
    text = "Ada Lovelace lived in London."
    entities, explained = model(text)[0], model(text, headers=EXPLAIN)[0]
    assert entities
    assert [(each["target"]["word"], each["target"]["label"]) for each in explained] == [
        (each["word"], each["entity_group"]) for each in entities
    ]
    assert [each["score"] for each in explained] == [each["score"] for each in entities]
    for target, word in (("London", "London"), ({"word": "Lovelace lived"}, "Lovelace lived")):
        (answer,) = model(with_parameters(text, target=target), headers=EXPLAIN)
        assert answer["target"]["word"] == word
    stretch = {"start": 0, "end": 3, "label": "I-LOC"}
    (answer,) = model(with_parameters(text, target=stretch), headers=EXPLAIN)
    assert answer["target"] == {"label": "I-LOC", "word": "Ada", "start": 0, "end": 3}
    (pair,) = model(b"{'text': 'Ada Lovelace', 'target': (1, 4)}", headers=EXPLAIN)
    assert pair["target"] == {"token": "Ada", "index": 1, "label": "I-LOC"}
    (legacy,) = model("{'text': 'Ada Lovelace', 'target': (1, 4)}", headers=LEGACY)
    assert legacy["words"] == ["[CLS]", "Ada", "Lovelace", "[SEP]"]
    for wrong in ("Berlin", 3, [1], [99, 0], [1, "no"], {"start": 5, "end": 2}, {"at": 1}):
        (error,) = model(with_parameters(text, target=wrong), headers=EXPLAIN)
        assert "'target' must be" in refusal(error)


def test_targets_of_questions(served: Served) -> None:
    """The answer, another stretch of the context, or TorchServe's token for start and end."""
    model = served("question-answering")
    (predicted,), (answer,) = model(QUESTION), model(QUESTION, headers=EXPLAIN)
    assert answer["target"]["answer"] == predicted["answer"]
    assert answer["score"] == pytest.approx(predicted["score"])
    texts = {"question": QUESTION["question"], "context": QUESTION["context"]}
    for word in answer["words"]:
        assert texts[word["part"]][word["start"] : word["end"]] == word["word"]
    assert {word["part"] for word in answer["words"]} == {"question", "context"}
    (other,) = model({**QUESTION, "target": "nice puppet"}, headers=EXPLAIN)
    assert other["target"] == {"answer": "nice puppet", "start": 17, "end": 28}
    (legacy,) = model({**QUESTION, "target": 1}, headers=LEGACY)
    numbers = {"importances_answer_start", "importances_answer_end", "delta_start", "delta_end"}
    assert legacy.keys() == {"words", *numbers}
    (both,) = model({**QUESTION, "target": [1, 1]}, headers=EXPLAIN)
    assert both["delta"] == pytest.approx(legacy["delta_start"] + legacy["delta_end"], abs=1e-5)
    for wrong in ("Berlin", True, 99, [1, 2, 3], {"start": 0}):
        (error,) = model({**QUESTION, "target": wrong}, headers=EXPLAIN)
        assert "'target' must be" in refusal(error)


def test_gradient_x_input_is_one_pass(served: Served) -> None:
    """The fast method: one pass with gradients after the prediction's, and no delta."""
    model = served("text-classification")
    model.handler.take_phases()
    (answer,) = model(with_parameters("a great movie", method="gradient_x_input"), headers=EXPLAIN)
    assert len(model.handler.take_phases()) == 2
    assert (answer["method"], answer["delta"], answer["baseline_value"]) == (
        "gradient_x_input",
        None,
        None,
    )
    assert any(word["importance"] for word in answer["words"])


def test_occlusion_is_what_changes_without_a_word(models: Models, served: Served) -> None:
    """Importances are differences of two predictions' logits, the mask standing in for the word."""
    model = served("text-classification")
    (answer,) = model(with_parameters("a great movie", method="occlusion"), headers=EXPLAIN)
    engine, tokenizer = model.handler._model.engine, model.handler._model.tokenizer
    index = LABELS.index(answer["target"])
    whole, hidden = (
        engine.forward([tokenizer_row(tokenizer, text)])[0]["logits"][index]
        for text in ("a great movie", "a [MASK] movie")
    )
    assert answer["words"][1]["importance"] == pytest.approx(whole - hidden, abs=1e-4)
    assert "reason" not in answer


def tokenizer_row(tokenizer: Any, text: str) -> Any:
    from flambeau.engines.base import TokenSequence
    from flambeau.tasks.base import TextInput, WindowRule

    window = tokenizer.encode([TextInput(text)], [WindowRule()])[0].windows[0]
    return TokenSequence(window.ids, window.type_ids)


@pytest.mark.parametrize("engine", ["torchscript", "onnx", "openvino"])
def test_models_without_gradients_are_occluded_and_say_so(
    models: Models, tmp_path: Path, engine: Any
) -> None:
    """In the answer where it is full, and in a header always."""
    task: TaskName = "token-classification"
    if engine == "torchscript":
        model = ServedNative(models.traced(task), file=TRACED_FILE, save_mode="torchscript")
    else:
        folder = models.get(task)
        form = Form(engine, "fp32")
        export(ExportRequest(folder=folder, task=task, forms=(form,), output=tmp_path))
        for file in folder.iterdir():
            if not (tmp_path / file.name).exists():
                (tmp_path / file.name).symlink_to(file)
        model = ServedNative(tmp_path, engine=engine)
    reason = f"the engine {engine} gives no gradients"
    (answer,) = model({"text": "Ada lived in London", "target": "London"}, headers=EXPLAIN)
    assert (answer["method"], answer["reason"]) == ("occlusion", reason)
    assert len(answer["words"]) == 4
    assert answer["words"][3]["importance"]
    (legacy,) = model({"text": "Ada lived in London", "target": "London"}, headers=LEGACY)
    assert legacy["words"] == ["Ada", "lived", "in", "London"]
    assert legacy["delta"] is None
    assert model.headers(0)["x-flambeau-explanation"] == f"occlusion; {reason}"


def test_lists_and_details(served: Served) -> None:
    """A list is explained in order, each entry with its own target; details say what was read."""
    model = served("text-classification")
    entries = [{"text": "a movie", "target": 2}, {"text": "a great movie"}]
    (answer,) = model(with_parameters(entries, details=True, target=1), headers=EXPLAIN)
    assert [each["target"] for each in answer["outputs"]] == [LABELS[2], LABELS[1]]
    assert [each["tokens"] for each in answer["usage"]] == [4, 5]
    alone = model({"text": "a movie", "target": 2}, headers=EXPLAIN)[0]
    assert answer["outputs"][0]["words"] == alone["words"]


def test_what_does_not_fit_is_cut_and_said_or_refused(served: Served) -> None:
    """The first window is explained, whatever predictions do with the rest."""
    model = served("text-classification")
    text = "movie " * 300
    for truncation in ("cut", "window"):
        asked = with_parameters(text, truncation=truncation, method="gradient_x_input")
        (answer,) = model(asked, headers=EXPLAIN)
        assert len(answer["words"]) == MAX_POSITIONS - 2
        assert model.headers(0)["x-flambeau-truncated"] == "true"
    (error,) = model(with_parameters(text, truncation="refuse"), headers=EXPLAIN)
    refusal(error)


def test_wrong_parameters_are_named(served: Served) -> None:
    """The parameter, its value and what is allowed; for tasks without explanations, which have."""
    model = served("text-classification")
    for parameters, told in (
        ({"n_steps": 0}, "'n_steps' must be a whole number from 1 to 500, not 0"),
        ({"n_steps": "many"}, "'n_steps' must be a whole number"),
        ({"method": "lime"}, 'not "lime"'),
        ({"target": "good"}, "'target' must be a label (O, B-PER, I-PER, B-LOC, I-LOC)"),
        ({"target": 5}, "or its number, 0 to 4, not 5"),
        ({"top_k": 1}, "unknown parameters top_k"),
    ):
        (error,) = model(with_parameters("a movie", **parameters), headers=EXPLAIN)
        assert told in refusal(error)
    (error,) = served("text-generation", "gpt2")("a movie", headers=EXPLAIN)
    assert isinstance(error, PredictionError)
    assert error.status == 501
    assert "only of text-classification, token-classification" in error.message


def test_what_costs_too_much_is_told_before_it_runs(served: Served) -> None:
    """One prediction is made, and the error says which number of steps would do."""
    model = served("text-classification")
    model.handler.take_phases()
    text = "movie " * (MAX_POSITIONS - 2)
    (error,) = model(with_parameters(text, n_steps=500), headers=EXPLAIN)
    assert len(model.handler.take_phases()) == 1
    told = refusal(error)
    assert "502 points x 128 tokens x 2 passes" in told
    steps = int(told.partition("n_steps to at most ")[2].partition(",")[0])
    assert isinstance(model(with_parameters(text, n_steps=steps), headers=EXPLAIN)[0], dict)
    many = [{"text": text}] * 9
    (error,) = model(with_parameters(many, n_steps=60), headers=EXPLAIN)
    assert "for the entries before it" in refusal(error)


def test_a_prediction_waits_for_one_pass_of_an_explanation(models: Models) -> None:
    """Whenever it comes, the pass after the one that runs is its own."""
    worker = Worker(models)
    asked = json.dumps(with_parameters("movie " * 120, n_steps=20))
    worker.add(("explanation", asked), explain="True")
    for number in range(6):
        worker.runs.step()
        worker.add((f"single{number}", f"good {number}"))
        worker.runs.step()
        assert worker.answered == [f"single{each}" for each in range(number + 1)]
    worker.finish()
    assert worker.answered[-1] == "explanation"
    assert isinstance(worker.runs, NativeRuns)
    assert worker.bodies["explanation"]["n_steps"] == 20


def test_a_withdrawn_explanation_stops(models: Models) -> None:
    """No pass is spent on what nobody waits for."""
    worker = Worker(models)
    asked = json.dumps(with_parameters("movie " * 120, n_steps=200))
    run = worker.add(("explanation", asked), explain="True")
    worker.runs.step()
    run.withdraw(())
    worker.runs.step()
    assert worker.runs.finished() == [run]
    assert not worker.answered
