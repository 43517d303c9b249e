"""Sentence embeddings against hidden states of transformers 4.57.6, pooled as sentence-transformers does."""

from pathlib import Path

import numpy as np
import pytest

from tests.parity.served import answers, read_goldens, serve

GOLDENS = read_goldens("embeddings")


@pytest.mark.parametrize("name", GOLDENS.cases)
def test_vectors_are_pooled_hidden_states(name: str, tmp_path: Path) -> None:
    """Mean or first token, as long as they are or of length 1; long texts are cut."""
    served = serve(name, GOLDENS.digests[name], tmp_path / "model")
    cases = GOLDENS.cases[name]
    for case, found in zip(cases, answers(served, cases), strict=True):
        np.testing.assert_allclose(found, case.outputs, atol=2e-4, err_msg=str(case))
