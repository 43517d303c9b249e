"""Question answering against the pipeline of transformers 4.57.6."""

from pathlib import Path

import pytest

from tests.parity.served import answers, differences, read_goldens, serve

GOLDENS = read_goldens("question-answering")


@pytest.mark.parametrize("name", GOLDENS.cases)
def test_answers_are_the_pipelines(name: str, tmp_path: Path) -> None:
    """Answers and offsets exactly, scores within 2e-4: all parameters, contexts of several windows."""
    served = serve(name, GOLDENS.digests[name], tmp_path / "model")
    cases = GOLDENS.cases[name]
    assert differences(cases, answers(served, cases)) == []
