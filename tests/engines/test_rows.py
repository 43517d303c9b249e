"""How rows are grouped, padded and put back in order."""

import numpy as np
import pytest

from flambeau import engines
from flambeau.engines.base import (
    CPU_LIMITS,
    RowLimits,
    TokenSequence,
    forward_in_groups,
    group_by_length,
    pad_rows,
    pick_device,
    row_mask,
)
from flambeau.errors import ConfigError


def test_folder_is_the_registry() -> None:
    """An engine's name is its file's; a wrong name lists the right ones."""
    assert engines.available() == ["onnx", "openvino", "torch", "torchscript"]
    with pytest.raises(ConfigError, match=r"'tensorrt'.*auto, onnx, openvino, torch, torchscript"):
        engines.load("tensorrt")


def test_groups_keep_padding_and_size_small() -> None:
    """Every row is in one group; no group pads or grows beyond the limits."""
    lengths = [int(length) for length in np.random.default_rng(0).integers(1, 200, 300)]
    groups = group_by_length(lengths, CPU_LIMITS)
    assert sorted(index for group in groups for index in group) == list(range(300))
    for group in groups:
        padded = max(lengths[index] for index in group) * len(group)
        waste = padded - sum(lengths[index] for index in group)
        assert waste <= CPU_LIMITS.max_padding * padded
        assert padded <= CPU_LIMITS.max_tokens
    assert len(groups) < 120


def test_a_row_over_the_limit_runs_alone() -> None:
    """A row larger than the limit still runs; no rows make no groups."""
    assert group_by_length([1000, 10, 10], RowLimits(100, 0.1)) == [[1, 2], [0]]
    assert group_by_length([], CPU_LIMITS) == []


def test_padding_sides() -> None:
    """Rows are filled on the right or the left, up to the longest or a width."""
    assert pad_rows([[1, 2], [3]], 0).tolist() == [[1, 2], [3, 0]]
    assert pad_rows([[1, 2], [3]], 9, left=True).tolist() == [[1, 2], [9, 3]]
    assert row_mask([[1, 2], [3]], width=3).tolist() == [[1, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize("limits", [None, RowLimits(100, 1.0)])
def test_outputs_lose_padding_and_keep_order(limits: RowLimits | None) -> None:
    """Each sequence gets its own outputs, as long as itself, in the order given."""

    def run(
        rows: list[TokenSequence],
    ) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
        return {"ids": pad_rows([row.ids for row in rows], -1).astype(np.float32)}

    sequences = [TokenSequence([1]), TokenSequence([2, 3, 4]), TokenSequence([5, 6])]
    outputs = forward_in_groups(sequences, limits, run, per_token=True)
    assert [output["ids"].tolist() for output in outputs] == [[1], [2, 3, 4], [5, 6]]


def test_a_missing_gpu_falls_back_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Asking for a GPU that is not there uses the CPU and says so."""
    assert pick_device(1, cuda_available=True) == "cuda:1"
    assert pick_device(None, cuda_available=True) == "cpu"
    assert not caplog.records
    assert pick_device(1, cuda_available=False) == "cpu"
    assert "GPU 1" in caplog.text
