"""Text-to-text generation against the pipeline of transformers 4.57.6."""

from pathlib import Path

import pytest

from tests.parity.served import answers, differences, read_goldens, serve

GOLDENS = read_goldens("text2text-generation")


@pytest.mark.parametrize("name", GOLDENS.cases)
def test_texts_are_the_pipelines(name: str, tmp_path: Path) -> None:
    """Texts exactly, with the pipeline's four beams where the request sets none."""
    served = serve(name, GOLDENS.digests[name], tmp_path / "model")
    cases = GOLDENS.cases[name]
    assert differences(cases, answers(served, cases)) == []
