"""Zero-shot classification against the pipeline of transformers 4.57.6."""

from pathlib import Path

import pytest

from tests.parity.served import answers, differences, read_goldens, serve

GOLDENS = read_goldens("zero-shot-classification")


@pytest.mark.parametrize("name", GOLDENS.cases)
def test_labels_are_the_pipelines(name: str, tmp_path: Path) -> None:
    """The order of the labels exactly, scores within 2e-4, whatever the model calls its entailment."""
    served = serve(name, GOLDENS.digests[name], tmp_path / "model")
    cases = GOLDENS.cases[name]
    assert differences(cases, answers(served, cases)) == []
