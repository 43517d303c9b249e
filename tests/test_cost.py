"""What a forward pass costs is learned from the passes that were made."""

import pytest

from flambeau.cost import CostModel


def learned(a: float, b: float, c: float, noise: float = 0.0) -> CostModel:
    """A model that has seen passes of many sizes; every other one was slower by `noise`."""
    model = CostModel()
    for number in range(60):
        texts, length = 1 + number % 7, 4 + (number * 37) % 200
        tokens, squares = texts * length, texts * length * length
        seconds = a + b * tokens + c * squares
        model.observe(tokens, squares, seconds * (1 + noise * (number % 2)))
    return model


def test_the_three_parts_are_found() -> None:
    """Fixed cost, cost of tokens and cost of attention come apart."""
    model = learned(0.005, 0.0004, 0.000001)
    assert model.predict(500, 50_000) == pytest.approx(0.255, rel=0.02)
    assert model.predict(8, 64) == pytest.approx(0.00826, rel=0.05)


def test_no_part_is_negative() -> None:
    """Noise never makes more tokens cheaper."""
    model = learned(0.0, 0.0004, 0.0, noise=0.5)
    assert model.fixed >= 0
    assert model.per_token > 0
    assert model.predict(1000, 1) > model.predict(10, 1)


def test_the_budget_makes_the_fixed_cost_small() -> None:
    """At the budget, the fixed cost is a twentieth; within the bounds."""
    model = learned(0.004, 0.0002, 0.0)
    assert model.budget(64, 2048) == pytest.approx(400, rel=0.05)
    assert model.budget(64, 256) == 256
    assert CostModel().budget(64, 2048) == 2048


def test_one_stalled_pass_changes_little() -> None:
    """A machine that stalls once does not make the model expect it again."""
    model = learned(0.004, 0.0002, 0.0)
    before = model.predict(300, 9_000)
    model.observe(300, 9_000, 60.0)
    assert model.predict(300, 9_000) < 2 * before


def test_a_changed_machine_is_learned() -> None:
    """When everything takes twice as long from now on, so does what is expected."""
    model = learned(0.004, 0.0002, 0.0)
    for number in range(150):
        tokens = 10 + number * 13 % 900
        model.observe(tokens, tokens * 20, 2 * (0.004 + 0.0002 * tokens))
    assert model.predict(500, 10_000) == pytest.approx(0.208, rel=0.1)
