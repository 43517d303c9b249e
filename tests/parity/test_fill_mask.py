"""Fill-mask against the pipeline of transformers 4.57.6."""

from pathlib import Path

import pytest

from tests.parity.served import answers, differences, read_goldens, serve

GOLDENS = read_goldens("fill-mask")


@pytest.mark.parametrize("name", GOLDENS.cases)
def test_tokens_are_the_pipelines(name: str, tmp_path: Path) -> None:
    """Tokens and texts exactly, scores within 2e-4: one mask and several, all tokens or targets."""
    served = serve(name, GOLDENS.digests[name], tmp_path / "model")
    cases = GOLDENS.cases[name]
    assert differences(cases, answers(served, cases)) == []
