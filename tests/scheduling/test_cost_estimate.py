"""What a request will probably cost is learned from those that have run."""

from flambeau.scheduling.batcher import CostEstimate


def test_the_rate_is_learned() -> None:
    """After many texts with one token for each five bytes, the next is expected to be like them."""
    cost = CostEstimate()
    for _ in range(200):
        cost.learn(10_000, 2_000 + 2 * 20, 20)
    assert 190 <= cost.tokens(1_000) <= 220


def test_texts_that_say_little_change_little() -> None:
    """Very long texts that were cut, and very short ones, do not spoil what others are expected to cost."""
    cost = CostEstimate()
    for _ in range(200):
        cost.learn(200_000, 512, 1)
    assert cost.tokens(50_000) >= 5_000
    cost = CostEstimate()
    for _ in range(20):
        cost.learn(3, 3, 1)
    assert cost.tokens(1_500) <= 600
