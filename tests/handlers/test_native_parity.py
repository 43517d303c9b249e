"""The native handler against plain Transformers, with tiny real models."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from flambeau.testing.models import MAX_POSITIONS, Architecture
from flambeau.testing.native import ServedNative
from flambeau.types import OutputShape, TaskName
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

FORWARD_CLASSES = {
    "text-classification": transformers.AutoModelForSequenceClassification,
    "token-classification": transformers.AutoModelForTokenClassification,
    "question-answering": transformers.AutoModelForQuestionAnswering,
}


def reference(folder: Path, task: TaskName, text: str, pair: str | None = None) -> Any:
    """A plain Transformers forward of one input, alone."""
    model = FORWARD_CLASSES[task].from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return model(**tokenizer(text, pair, return_tensors="pt"))


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "gpt2"])
def test_classification_scores_equal_transformers(
    models: Models, architecture: Architecture
) -> None:
    """Scores are a plain forward's within 1e-5, alone and in any batch."""
    folder = models.get("text-classification", architecture)
    if architecture == "gpt2":
        folder = models.get("text-classification", "gpt2")
    served = ServedNative(folder)
    together = served(*TEXTS)
    for text, in_batch in zip(TEXTS, together, strict=True):
        model_output = reference(folder, "text-classification", text)
        expected = model_output.logits[0].softmax(-1).tolist()
        assert classification_scores(in_batch) == pytest.approx(expected, abs=1e-5)
        assert classification_scores(served(text)[0]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert"])
def test_torchscript_scores_equal_transformers(models: Models, architecture: Architecture) -> None:
    """A traced model gives the same scores, alone and in any batch."""
    served = ServedNative(
        models.traced("text-classification", architecture), file="traced_model.pt"
    )
    assert served.handler.info()["engine"] == "torchscript"
    together = served(*TEXTS)
    source = models.get("text-classification", architecture)
    for text, in_batch in zip(TEXTS, together, strict=True):
        expected = reference(source, "text-classification", text).logits[0].softmax(-1).tolist()
        assert classification_scores(in_batch) == pytest.approx(expected, abs=1e-5)
        assert classification_scores(served(text)[0]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert"])
def test_token_labels_equal_transformers(
    models: Models, architecture: Architecture, traced: bool
) -> None:
    """Legacy pairs are the row's tokens and a plain forward's labels, without padding."""
    source = models.get("token-classification", architecture)
    if traced:
        folder = models.traced("token-classification", architecture)
        served = ServedNative(folder, "legacy", file="traced_model.pt")
    else:
        served = ServedNative(source, "legacy")
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    for text, answer in zip(TEXTS, served(*TEXTS), strict=True):
        best = reference(source, "token-classification", text).logits[0].argmax(-1).tolist()
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
        assert answer == [[token, LABELS[i]] for token, i in zip(tokens, best, strict=True)]
        assert served(text)[0] == answer


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert"])
def test_entities_are_slices_of_the_text(models: Models, architecture: Architecture) -> None:
    """Every entity's word is the text between its offsets, whole words only."""
    served = ServedNative(models.get("token-classification", architecture))
    found = 0
    texts = [*TEXTS, "Zoë 😀 lived in Paris, with Émile-Jean."]
    for text, answer in zip(texts, served(*texts), strict=True):
        for entity in answer:
            found += 1
            start, end = entity["start"], entity["end"]
            assert entity["word"] == text[start:end] == text[start:end].strip() != ""
            for edge in (start, end):
                assert not text[max(0, edge - 1) : edge + 1].isalpha() or edge in (0, len(text))
    assert found


# A traced BERT cannot be told the question from the context.
@pytest.mark.parametrize(
    ("architecture", "traced"),
    [
        ("bert", False),
        ("roberta", False),
        ("distilbert", False),
        ("roberta", True),
        ("distilbert", True),
    ],
)
def test_answers_score_as_transformers(
    models: Models, architecture: Architecture, traced: bool
) -> None:
    """The best span's score is p(start) * p(end) over the context, from a plain forward."""
    source = models.get("question-answering", architecture)
    if traced:
        folder = models.traced("question-answering", architecture)
        served = ServedNative(folder, file="traced_model.pt")
    else:
        served = ServedNative(source)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    encoding = tokenizer(QUESTION["question"], QUESTION["context"])
    rows = [i for i, part in enumerate(encoding.sequence_ids()) if part == 1]
    plain = reference(source, "question-answering", QUESTION["question"], QUESTION["context"])
    starts = plain.start_logits[0][rows].double().softmax(-1)
    ends = plain.end_logits[0][rows].double().softmax(-1)
    expected = float(torch.triu(starts[:, None] * ends[None, :]).tril(29).max())
    long = {"question": "what", "context": " ".join(TEXTS)}
    for answer in (served(QUESTION)[0], served(long, QUESTION, long)[1]):
        assert answer["score"] == pytest.approx(expected, abs=1e-5)
        assert answer["answer"] == QUESTION["context"][answer["start"] : answer["end"]] != ""


@pytest.mark.parametrize("output", ["legacy", "full"])
@pytest.mark.parametrize("traced", [False, True])
def test_greedy_generation_equals_transformers(
    models: Models, output: OutputShape, traced: bool
) -> None:
    """Prompts of any lengths in one batch go on as each does alone in plain Transformers."""
    source = models.get("text-generation", "gpt2")
    if traced:
        served = ServedNative(
            models.traced("text-generation", "gpt2"), output, file="traced_model.pt"
        )
    else:
        served = ServedNative(source, output)
    parameters = {"max_new_tokens": 12, "do_sample": False}
    bodies = [{"text": text, "parameters": parameters} for text in TEXTS]
    answers = served(*bodies, headers={"x-flambeau-output": output})
    model = transformers.AutoModelForCausalLM.from_pretrained(source).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    for text, answer in zip(TEXTS, answers, strict=True):
        inputs = tokenizer(text, return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=12, do_sample=False, pad_token_id=0)[0]
        prompt = inputs["input_ids"].shape[1]
        expected = text + tokenizer.decode(ids[prompt:], skip_special_tokens=True)
        assert (answer if output == "legacy" else answer["generated_text"]) == expected
        if output == "full":
            assert answer["prompt_tokens"] == prompt
            assert answer["finish_reason"] in {"stop", "length"}


def test_seeded_sampling_repeats_itself(models: Models) -> None:
    """One seed gives one text, whatever the neighbours; another seed gives another."""
    served = ServedNative(models.get("text-generation", "gpt2"), "legacy", max_length=16)

    def body(seed: int) -> dict[str, Any]:
        return {"text": "the torch", "parameters": {"seed": seed}}

    first = served(body(1))[0]
    assert served("hi", body(1), body(2))[1] == first
    assert served(body(2))[0] != first
    assert first.startswith("the torch")


def test_generation_stays_within_the_models_positions(models: Models) -> None:
    """A long prompt loses its beginning, and the continuation gets the room that is left."""
    served = ServedNative(models.get("text-generation", "gpt2"))
    parameters = {"max_new_tokens": 500, "do_sample": False}
    long, short = served(
        {"text": "the " * 300 + "end", "parameters": parameters},
        {"text": "the", "parameters": parameters},
    )
    assert long["prompt_tokens"] == MAX_POSITIONS - 1
    assert long["generated_tokens"] <= 1
    assert short["prompt_tokens"] + short["generated_tokens"] <= MAX_POSITIONS
    assert served.headers(0)["x-flambeau-truncated"] == "true"
    assert served.headers(1)["x-flambeau-truncated"] == "false"
