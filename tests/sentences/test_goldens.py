"""Vectors and scores against those of sentence-transformers itself (`make_goldens.py`)."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flambeau.testing.native import ServedNative
from tests.handlers.native_models import one_thread
from tests.sentences.make_goldens import GOLDENS
from tests.sentences.models import (
    ACTIVATIONS,
    MODELS,
    PAIRS,
    TEXTS,
    write_cross_encoder,
    write_model,
)

__all__ = ["one_thread"]  # a fixture

FOUND = json.loads(GOLDENS.read_text())
TOLERANCE = 2e-5


@pytest.mark.parametrize("name", MODELS)
def test_vectors_are_the_librarys(name: str, tmp_path: Path) -> None:
    """Pooling, Dense, LayerNorm, Normalize, prompts, lower case and cut dimensions: all equal.

    Where a request cuts vectors that have length 1, the library leaves them shorter; here they are
    made 1 again.
    """
    served = ServedNative(write_model(name, tmp_path / "model"))
    assert served.handler.info()["task"] == "embeddings"
    cases = [
        (given, np.array(wanted)) for model, given, wanted in FOUND["vectors"] if model == name
    ]
    assert len(cases) >= 4
    found = served(*({"inputs": TEXTS, "parameters": given} for given, _ in cases))
    normalizes = MODELS[name].modules[-1][0] == "Normalize"
    for (given, wanted), answer in zip(cases, found, strict=True):
        if normalizes and "dimensions" in given:
            wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
        np.testing.assert_allclose(answer, wanted, atol=TOLERANCE, err_msg=f"{name} {given}")


def test_rounded_vectors_are_the_librarys(tmp_path: Path) -> None:
    """int8 and uint8 by the ranges in the model's folder, and one bit a number: all exact."""
    folder = write_model("mean", tmp_path / "model")
    wanted = FOUND["quantised"]
    (folder / "embedding_ranges.json").write_text(json.dumps(wanted["ranges"]))
    served = ServedNative(folder)
    for kind in ("int8", "uint8", "binary", "ubinary"):
        asked = {"inputs": TEXTS, "embedding_dtype": kind}
        plain, packed = served(asked, asked | {"encoding_format": "base64"})
        gaps = np.abs(np.array(plain) - np.array(wanted[kind]))
        # A number on the edge of a step falls to either side.
        assert gaps.max() <= 1 if "int8" in kind else gaps.max() == 0
        assert (gaps > 0).mean() < 0.02
        dtype = np.uint8 if kind.startswith("u") else np.int8
        bytes_ = [np.frombuffer(base64.b64decode(each), dtype).tolist() for each in packed]
        assert bytes_ == plain


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_scores_are_the_librarys(name: str, tmp_path: Path) -> None:
    """A cross-encoder's scores, through the activation that its configuration names."""
    served = ServedNative(write_cross_encoder(name, tmp_path / "model"), task="text-ranking")
    query = PAIRS[0][0]
    ranked: Any = served({"query": query, "texts": TEXTS})[0]
    wanted = FOUND["scores"][name]
    assert [row["index"] for row in ranked] == np.argsort(-np.array(wanted)).tolist()
    scores = [row["score"] for row in ranked]
    np.testing.assert_allclose(scores, sorted(wanted, reverse=True), atol=TOLERANCE)
