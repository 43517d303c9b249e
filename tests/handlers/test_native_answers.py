"""Question answering and fill-mask through the native handler, with tiny real models."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from flambeau.cli.serve import example_curl
from flambeau.errors import PredictionError
from flambeau.testing.models import Architecture
from flambeau.testing.native import ServedNative
from flambeau.types import TaskName
from tests.handlers.native_models import QUESTION, Models, models, one_thread

__all__ = ["models", "one_thread"]  # fixtures

quick = settings(max_examples=20, deadline=None, derandomize=True, database=None)
LONG = "Ada Lovelace lived in London.\nJim  Henson was a nice puppet 😀 in 東京 and Paris, " * 20
QUESTIONS: list[Architecture] = ["bert", "roberta"]

_served: dict[tuple[Path, TaskName, Architecture], ServedNative] = {}


def served(models: Models, task: TaskName, architecture: Architecture = "bert") -> ServedNative:
    """A model of the module, loaded once."""
    folder = models.get(task, architecture)
    key = folder, task, architecture
    if key not in _served:
        _served[key] = ServedNative(folder)
    return _served[key]


def ask(question: str, context: str, **parameters: Any) -> dict[str, Any]:
    return {"inputs": {"question": question, "context": context}, "parameters": parameters}


pieces = st.sampled_from(
    ["Ada", "London", "it's", "Zoë", "😀", "👩‍👩‍👧", "東京", "3.5%", "\n", "\t", "  ", "é", "x" * 9]
)
contexts = st.lists(pieces, min_size=1, max_size=120).map(" ".join).filter(str.strip)


@pytest.mark.parametrize("architecture", QUESTIONS)
def test_answers_are_slices_of_the_context(models: Models, architecture: Architecture) -> None:
    """Offsets point into the user's own string, in both forms, in one window and in several."""
    model = served(models, "question-answering", architecture)
    read = []

    @quick
    @given(contexts, st.booleans(), st.integers(1, 4))
    def check(context: str, align: bool, top_k: int) -> None:
        parameters = {"top_k": top_k, "align_to_words": align}
        plain = {"question": "who", "context": context, "parameters": parameters}
        for found in model(ask("who", context, **parameters), plain):
            answers = found if isinstance(found, list) else [found]
            assert 1 <= len(answers) <= top_k
            assert [row["score"] for row in answers] == sorted(
                (row["score"] for row in answers), reverse=True
            )
            for row in answers:
                assert 0 <= row["start"] <= row["end"] <= len(context)
                assert context[row["start"] : row["end"]] == row["answer"]
                read.append(row["answer"])

    check()
    assert any(read)


@pytest.mark.parametrize("architecture", QUESTIONS)
def test_company_changes_no_answer(models: Models, architecture: Architecture) -> None:
    """A batch of several requests, and a list in one, give what each question gives alone."""
    model = served(models, "question-answering", architecture)

    @settings(quick, max_examples=8)
    @given(st.lists(contexts, min_size=2, max_size=4))
    def check(texts: list[str]) -> None:
        bodies = [ask("what was that", text) for text in texts]
        alone = [model(body)[0] for body in bodies]
        (listed,) = model({"inputs": [body["inputs"] for body in bodies]})
        for found in (model(*bodies), listed):
            for one, other in zip(alone, found, strict=True):
                assert one["answer"] == other["answer"]
                assert one["score"] == pytest.approx(other["score"], abs=1e-5)

    check()


def test_long_contexts_are_read_to_their_end(models: Models) -> None:
    """Windows are the default: nothing is left out, and usage says what was read."""
    model = served(models, "question-answering")
    (details,) = model(ask("who", LONG, details=True))
    assert details["usage"]["windows"] > 3
    assert not details["usage"]["truncated"]
    assert details["usage"]["characters_used"] == len("who") + len(LONG.rstrip())
    assert model.headers(0)["x-flambeau-truncated"] == "false"
    assert model.headers(0)["x-flambeau-tokens"] == str(details["usage"]["tokens"])
    (cut,) = model(ask("who", LONG, truncation="cut", details=True))
    assert (cut["usage"]["windows"], cut["usage"]["truncated"]) == (1, True)
    (refused,) = model(ask("who", LONG, truncation="refuse"))
    assert isinstance(refused, PredictionError)
    assert "the model reads 128" in refused.message


def test_windows_are_as_long_as_asked_for(models: Models) -> None:
    """max_seq_len and doc_stride set a window's tokens and those that two share."""
    model = served(models, "question-answering")
    context = "the movie was great " * 10  # 40 tokens; question and special ones take 4
    for longest, stride, windows in ((14, 0, 4), (14, 5, 7), (44, 20, 1), (None, None, 1)):
        body = ask("who", context, max_seq_len=longest, doc_stride=stride, details=True)
        assert model(body)[0]["usage"]["windows"] == windows


@pytest.mark.parametrize(
    ("question", "parameters", "problem"),
    [
        (
            "what was the movie",
            {"max_seq_len": 7},
            "the question alone is longer than the 7 tokens of a window: it has 4, besides 3",
        ),
        ("who", {"max_seq_len": 9, "doc_stride": 5}, "'doc_stride' is 5, but of a window's 9"),
    ],
)
def test_windows_without_room_are_refused(
    models: Models, question: str, parameters: dict[str, Any], problem: str
) -> None:
    """The error names the lengths."""
    (refused,) = served(models, "question-answering")(ask(question, LONG, **parameters))
    assert isinstance(refused, PredictionError)
    assert problem in refused.message


def test_tokenizers_that_pad_on_the_left_read_the_context_first(
    models: Models, tmp_path: Path
) -> None:
    """As the pipeline had it; the offsets still are the context's."""
    folder = tmp_path / "left"
    shutil.copytree(models.get("question-answering"), folder)
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "padding_side": "left"}))
    model = ServedNative(folder)
    for body in (ask("who was it", LONG, top_k=3), ask(**QUESTION, top_k=3)):
        for row in model(body)[0]:
            context = body["inputs"]["context"]
            assert context[row["start"] : row["end"]] == row["answer"] != ""
    (details,) = model(ask("who was it", LONG, details=True))
    assert details["usage"]["windows"] > 3
    assert not details["usage"]["truncated"]


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert"])
def test_filled_masks_score_as_transformers(models: Models, architecture: Architecture) -> None:
    """Tokens and scores are a plain forward's, alone and in company; one and several masks."""
    model = served(models, "fill-mask", architecture)
    folder = models.get("fill-mask", architecture)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    plain = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    mask = tokenizer.mask_token
    texts = [f"Ada {mask} in London", f"the {mask} of {mask} was 😀", mask]
    for text, answer in zip(texts, model(*({"inputs": text} for text in texts)), strict=True):
        inputs = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            logits = plain(**inputs).logits[0]
        places = (inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero()[:, 0]
        for place, rows in zip(places, answer if len(places) > 1 else [answer], strict=True):
            expected, tokens = logits[place].softmax(-1).topk(5)
            assert [row["token"] for row in rows] == tokens.tolist()
            assert [row["score"] for row in rows] == pytest.approx(expected.tolist(), abs=1e-5)
            assert rows[0]["token_str"] == tokenizer.decode([tokens[0]])


def test_masks_of_long_texts(models: Models) -> None:
    """Windows reach masks that cutting loses, of which the client is told."""
    model = served(models, "fill-mask")
    text = "the movie was great " * 60 + "[MASK] in London " + "the movie was great " * 60
    (cut,) = model({"inputs": text})
    assert isinstance(cut, PredictionError)
    assert 'set truncation to "window"' in cut.message
    (details,) = model({"inputs": text, "parameters": {"truncation": "window", "details": True}})
    assert details["usage"]["windows"] > 3
    assert len(details["outputs"]) == 5
    assert all("in London" in row["sequence"] for row in details["outputs"])


def test_models_with_a_mask_of_their_own_say_so(models: Models) -> None:
    """Whoever asks how a model is served gets a request that it takes; `flambeau serve` prints it."""
    info = served(models, "fill-mask", "roberta").handler.info()
    assert info["example"] == "Flambeau carries the <mask>."
    assert "'Flambeau carries the <mask>.'" in example_curl(
        "http://h", "m", info["task"], info["example"]
    )
    assert "example" not in served(models, "fill-mask", "bert").handler.info()
    assert "'Flambeau carries the [MASK].'" in example_curl("http://h", "m", "fill-mask")
