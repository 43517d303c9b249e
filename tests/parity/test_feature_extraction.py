"""Feature extraction against the pipeline of transformers 4.57.6."""

from pathlib import Path

import pytest

from tests.parity.served import answers, differences, read_goldens, serve

GOLDENS = read_goldens("feature-extraction")


@pytest.mark.parametrize("name", GOLDENS.cases)
def test_vectors_are_the_pipelines(name: str, tmp_path: Path) -> None:
    """One vector per token, special ones too, with the pipeline's nesting."""
    served = serve(name, GOLDENS.digests[name], tmp_path / "model")
    cases = GOLDENS.cases[name]
    assert differences(cases, answers(served, cases)) == []
