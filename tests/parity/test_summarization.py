"""Summarization against the pipeline of transformers 4.57.6."""

from pathlib import Path

import pytest

from tests.parity.served import answers, differences, read_goldens, serve

GOLDENS = read_goldens("summarization")


@pytest.mark.parametrize("name", GOLDENS.cases)
def test_summaries_are_the_pipelines(name: str, tmp_path: Path) -> None:
    """Texts exactly, with the prefix and the settings that the model's configuration has for the task."""
    served = serve(name, GOLDENS.digests[name], tmp_path / "model")
    cases = GOLDENS.cases[name]
    assert differences(cases, answers(served, cases)) == []
