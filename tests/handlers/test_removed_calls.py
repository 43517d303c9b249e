"""Calls that Transformers removed, on real tokenizers and models."""

import logging
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
)

from flambeau.handlers import removed_calls
from flambeau.testing.models import tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT on disk, and the removed calls given back."""
    removed_calls.apply()
    removed_calls.apply()
    return tiny_model(tmp_path_factory.mktemp("tiny"), "text-classification")


@pytest.fixture
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def test_encode_plus(tokenizer: Any) -> None:
    """One text or pair of texts, with the arguments by name or by position."""
    assert tokenizer.encode_plus("a movie") == tokenizer("a movie")
    assert tokenizer.encode_plus("a movie", "is great") == tokenizer("a movie", "is great")
    plain = tokenizer("a movie", add_special_tokens=False)
    assert tokenizer.encode_plus("a movie", None, False) == plain
    cut = tokenizer.encode_plus("a movie is great", None, True, False, True, 4)
    assert cut == tokenizer("a movie is great", truncation=True, max_length=4)
    assert list(tokenizer.encode_plus("a", return_tensors="pt")["input_ids"].shape) == [1, 3]


def test_batch_encode_plus(tokenizer: Any) -> None:
    """A list of texts, or of pairs."""
    texts = ["a movie", "is great"]
    assert tokenizer.batch_encode_plus(texts) == tokenizer(texts)
    pairs = [("a", "b"), ("c", "d e")]
    assert tokenizer.batch_encode_plus(pairs) == tokenizer(["a", "c"], ["b", "d e"])
    padded = tokenizer.batch_encode_plus(texts, pad_to_max_length=True, max_length=6)
    assert [len(row) for row in padded["input_ids"]] == [6, 6]


@pytest.mark.parametrize("method", ["__call__", "encode_plus"])
def test_pad_to_max_length(tokenizer: Any, method: str) -> None:
    """Short texts are padded to max_length and, as in old versions, long ones are cut to it."""
    encode = getattr(tokenizer, method)
    for text in ("a", "a movie is great and terrible and nice"):
        row = encode(text, max_length=6, pad_to_max_length=True)["input_ids"]
        assert len(row) == 6
    assert len(tokenizer.encode("a", max_length=6, pad_to_max_length=True)) == 6
    assert len(encode("a", max_length=6, pad_to_max_length=False)["input_ids"]) == 3
    kept = encode("a movie is great", max_length=4, pad_to_max_length=True, truncation=False)
    assert len(kept["input_ids"]) == 6
    assert len(encode("a", pad_to_max_length=True)["input_ids"]) == 128


def test_torchscript_means_tuples(folder: Path) -> None:
    """`torchscript=True` gives tuples, from a configuration, a model or config.json."""
    assert AutoConfig.from_pretrained(folder, torchscript=True).return_dict is False
    assert BertConfig(torchscript=True).return_dict is False
    assert BertConfig().return_dict is True
    assert BertConfig().torchscript is False
    assert AutoConfig.from_pretrained(folder).return_dict is True
    model = AutoModelForSequenceClassification.from_pretrained(folder, torchscript=True)
    assert isinstance(model(**model.dummy_inputs), tuple)
    model.config.save_pretrained(folder / "saved")
    again = AutoConfig.from_pretrained(folder / "saved")
    assert (again.torchscript, again.return_dict) == (True, False)


def test_one_warning_per_kind(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Many calls of a kind are warned about once, with the replacement."""
    removed_calls._warn.cache_clear()
    with caplog.at_level(logging.WARNING, logger="flambeau.handlers.removed_calls"):
        for _ in range(3):
            tokenizer.encode_plus("a", max_length=4, pad_to_max_length=True)
            BertConfig(torchscript=True)
    assert len(caplog.messages) == 3
    assert 'Write padding="max_length", truncation=True.' in caplog.text
