"""Engines give, of a masked language model, the wanted tokens' numbers alone."""

from typing import Any

import numpy as np
import pytest

from flambeau import engines
from flambeau.engines.base import LARGEST_OUTPUT, RowLimits, TokenSequence, narrowed
from flambeau.testing.models import Architecture
from tests.engines.forms import Case, Forms

TOLERANCE = 1e-4


def sequences() -> list[TokenSequence]:
    """Rows of several lengths that want some tokens, among them one that wants none."""
    draw = np.random.default_rng(0)
    rows = []
    for length, wanted in ((9, [0, 8]), (4, []), (30, [15]), (9, [3, 4, 5]), (1, [0])):
        ids = draw.integers(5, 90, length).tolist()
        rows.append(TokenSequence(ids, [0] * length, wanted=wanted))
    return rows


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("torch", "bert"),
        ("torch", "roberta"),
        ("torch", "distilbert"),
        ("onnx", "distilbert"),
        ("openvino", "distilbert"),
    ],
)
def test_wanted_tokens_are_as_among_all(
    forms: Forms, name: str, architecture: Architecture
) -> None:
    """Each row's outputs are those of its wanted tokens, in order, as if all had been asked for."""
    engine = engines.load(name)(forms.source(name, Case(architecture, "fill-mask")))
    engine.begin(1)
    rows = sequences()
    everything = engine.forward([TokenSequence(row.ids, row.type_ids) for row in rows])
    for row, some, whole in zip(rows, engine.forward(rows), everything, strict=True):
        assert row.wanted is not None
        expected = whole["logits"][row.wanted]
        assert some["logits"].shape == expected.shape
        assert np.allclose(some["logits"], expected, atol=TOLERANCE)
    (alone,) = engine.forward([rows[1]])
    assert len(alone["logits"]) == 0


def test_the_head_reads_the_wanted_tokens_alone(forms: Forms) -> None:
    """What it computes for others would be most of the work, and of the memory, of a pass."""
    engine = engines.load("torch")(forms.source("torch", Case("bert", "fill-mask")))
    rows = []
    head: Any = engine._model.cls  # type: ignore[attr-defined]
    head.register_forward_hook(lambda _module, _inputs, output: rows.append(output.shape[1]))
    engine.forward(sequences())
    assert sum(rows) == sum(len(row.wanted or ()) for row in sequences())


def test_passes_are_smaller_where_a_token_gives_much() -> None:
    """A vocabulary of 250,000 leaves 268 tokens to a pass, one of 30,000 as many as ever."""
    limits = RowLimits(1_024, 0.0, packed=True)
    assert narrowed(limits, 250_000).max_tokens == LARGEST_OUTPUT // 1_000_000
    assert narrowed(limits, 30_000) == limits
