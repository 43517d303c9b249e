"""Models without a head, served from checkpoints of all kinds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModel, T5Config, T5EncoderModel, T5Model

from flambeau.errors import LoadError
from flambeau.testing.models import Architecture, tiny_model
from flambeau.testing.native import ServedNative
from flambeau.types import TaskName
from tests.handlers.native_models import TEXTS, one_thread

__all__ = ["one_thread"]  # a fixture


def states(folder: Path, ids: list[int], kind: Any = AutoModel) -> Any:
    """What Transformers' own class gives for one row."""
    model = kind.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()


def ids_of(served: ServedNative, text: str) -> list[int]:
    return list(served.handler._model.tokenizer._tokenizer.encode(text).ids)


@pytest.mark.parametrize(
    ("task", "architecture"),
    [
        ("embeddings", "bert"),
        ("text-classification", "bert"),
        ("token-classification", "roberta"),
        ("question-answering", "distilbert"),
        ("text-generation", "gpt2"),
    ],
)
def test_any_checkpoint_serves_its_states(
    task: TaskName, architecture: Architecture, tmp_path: Path
) -> None:
    """With a head, which is left out, with a pooler and without one; together as alone."""
    folder = tiny_model(tmp_path / "model", task, architecture)
    served = ServedNative(folder, task="feature-extraction")
    found = served({"inputs": TEXTS})[0]
    for text, answer in zip(TEXTS, found, strict=True):
        [of_text] = answer
        expected = states(folder, ids_of(served, text))
        np.testing.assert_allclose(of_text, expected, atol=1e-4)
    assert served.handler.info()["batching"] == "packed"


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    """A model whose weights are missing would give random vectors."""
    folder = tiny_model(tmp_path / "model", "embeddings")
    file = folder / "model.safetensors"
    weights = load_file(file)
    kept = {name: array for name, array in weights.items() if "layer.1.output" not in name}
    save_file(kept, file, metadata={"format": "pt"})
    with pytest.raises(LoadError, match=r"no weights for encoder.layer.1.output"):
        ServedNative(folder, task="embeddings")


def test_of_an_encoder_and_decoder_the_encoder_is_served(tmp_path: Path) -> None:
    """T5, whose whole model could not run without a second text."""
    folder = tiny_model(tmp_path / "model", "embeddings")
    with torch.random.fork_rng():
        config = T5Config(
            vocab_size=200, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, pad_token_id=0
        )
        T5Model(config).save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["model_input_names"] = ["input_ids", "attention_mask"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    served = ServedNative(folder, task="embeddings")
    found = served({"inputs": TEXTS[:3]})[0]
    for text, vector in zip(TEXTS, found, strict=False):
        expected = states(folder, ids_of(served, text), T5EncoderModel).mean(0)
        np.testing.assert_allclose(vector, expected, atol=1e-4)


def test_answers_of_numbers_are_short_json(tmp_path: Path) -> None:
    """No spaces, no lines, no more digits than a float32 has; and JSON even where it is a text."""
    served = ServedNative(tiny_model(tmp_path / "model", "embeddings"), task="embeddings")
    vector = served({"inputs": "Ada lived in London"})[0]
    body = served.handler.handle([{"body": {"inputs": "Ada lived in London"}}], served.context)[0]
    assert isinstance(body, bytes)
    assert body.decode() == json.dumps(vector, separators=(",", ":"))
    assert len(body) < 13 * len(vector)
    assert served.headers(0)["content-type"] == "application/json"
    assert isinstance(served({"inputs": "a", "encoding_format": "base64"})[0], str)
    assert served.headers(0)["content-type"] == "application/json"
