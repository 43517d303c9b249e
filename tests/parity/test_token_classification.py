"""Token classification against the pipeline of transformers 4.57.6."""

from pathlib import Path

import pytest

from tests.parity.served import answers, differences, read_goldens, serve

GOLDENS = read_goldens("token-classification")


@pytest.mark.parametrize("name", GOLDENS.cases)
def test_entities_are_the_pipelines(name: str, tmp_path: Path) -> None:
    """Labels, words and offsets exactly: all strategies, ignored labels, texts of several windows."""
    served = serve(name, GOLDENS.digests[name], tmp_path / "model")
    cases = GOLDENS.cases[name]
    assert differences(cases, answers(served, cases)) == []
