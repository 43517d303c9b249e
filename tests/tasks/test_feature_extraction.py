"""Feature extraction: the pipeline's nesting, and what is refused."""

from typing import Any

import numpy as np
import pytest

from flambeau.tasks.base import RowOutputs, TextInput, Window
from tests.tasks.samples import error_of, forward_task, spaced_encoding, with_parameters

STATES = np.arange(6, dtype=np.float32).reshape(3, 2)


def test_a_text_is_a_batch_of_one() -> None:
    """[1][tokens][width]; read in windows, the first axis are those."""
    task = forward_task("feature-extraction")
    entry = TextInput("a")
    window = Window(spaced_encoding("a"), {"last_hidden_state": STATES})
    row, options = RowOutputs(entry, [window]), with_parameters(task)
    assert task.postprocess([row], entry, options) == [[[0, 1], [2, 3], [4, 5]]]
    rows = [RowOutputs(entry, [window, window])]
    assert np.array(task.postprocess(rows, entry, options)).shape == (2, 3, 2)
    inputs = task.parse({"inputs": ["a"]})
    assert task.assemble([[[[0.0]]]], with_parameters(task)) == [[[0.0]]]
    assert inputs.many


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"return_tensors": True}, "'return_tensors' must be false"),
        ({"normalize": True}, "the task embeddings"),
        ({"truncate": "yes"}, "unknown parameters truncate"),
        ({"truncation_direction": 3}, "'truncation_direction' must be"),
    ],
)
def test_wrong_parameters(parameters: dict[str, Any], problem: str) -> None:
    """What the pipeline has and JSON has not, and what is for sentence vectors."""
    value = {"inputs": "a", "parameters": parameters}
    assert problem in error_of(forward_task("feature-extraction"), value).message


def test_return_tensors_false_is_what_is_done() -> None:
    """A client that says so is right."""
    task = forward_task("feature-extraction")
    assert task.parse({"inputs": "a", "parameters": {"return_tensors": False}}).entries
