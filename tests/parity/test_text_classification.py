"""Text classification against the pipeline of transformers 4.57.6."""

from pathlib import Path

import pytest

from tests.parity.served import answers, differences, read_goldens, serve

GOLDENS = read_goldens("text-classification")


@pytest.mark.parametrize("name", GOLDENS.cases)
def test_labels_are_the_pipelines(name: str, tmp_path: Path) -> None:
    """Labels, their order and nesting exactly, scores within 2e-4: all problem types, texts and pairs."""
    served = serve(name, GOLDENS.digests[name], tmp_path / "model")
    cases = GOLDENS.cases[name]
    assert differences(cases, answers(served, cases)) == []
