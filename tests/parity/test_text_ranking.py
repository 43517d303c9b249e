"""Text ranking against the logits of a cross-encoder under transformers 4.57.6."""

import math
from pathlib import Path

import pytest

from tests.parity.served import answers, read_goldens, serve

GOLDENS = read_goldens("text-ranking")


@pytest.mark.parametrize("name", GOLDENS.cases)
def test_order_and_scores_are_the_cross_encoders(name: str, tmp_path: Path) -> None:
    """Texts by falling score; a score is the logit's sigmoid, as sentence-transformers has it."""
    served = serve(name, GOLDENS.digests[name], tmp_path / "model")
    cases = GOLDENS.cases[name]
    for case, found in zip(cases, answers(served, cases), strict=True):
        expected = [1 / (1 + math.exp(-logit)) for logit in case.outputs]
        order = sorted(range(len(expected)), key=expected.__getitem__, reverse=True)
        assert [row["index"] for row in found] == order
        scores = [row["score"] for row in found]
        assert scores == pytest.approx([expected[index] for index in order], abs=2e-4)
