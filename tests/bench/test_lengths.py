"""Length mixes and the texts made from them."""

import random
import statistics

import pytest

from flambeau.bench.lengths import make_texts, parse_lengths
from flambeau.errors import ConfigError


def _drawn(mix: str, count: int = 4000) -> list[int]:
    return [len(text.split()) for text in make_texts(parse_lengths(mix), count, seed=1)]


def test_a_lognormal_mix_has_its_mean_and_its_maximum() -> None:
    """Long texts are cut at `max`; the mean is the one asked for, to a few per cent."""
    lengths = _drawn("lognormal:30,max=256")
    assert statistics.mean(lengths) == pytest.approx(30, rel=0.1)
    assert max(lengths) <= 256
    assert min(lengths) >= 1
    assert statistics.median(lengths) < statistics.mean(lengths)


def test_sigma_is_the_spread_of_the_logarithm() -> None:
    """Without any, all texts have the mean's length."""
    assert set(_drawn("lognormal:30,sigma=0")) == {30}


def test_uniform_and_fixed() -> None:
    """Both ends of a uniform mix occur; a fixed one has one length."""
    assert set(_drawn("uniform:8-12")) == set(range(8, 13))
    assert set(_drawn("fixed:128", 10)) == {128}


def test_the_same_seed_gives_the_same_texts() -> None:
    """So two servers are asked the same."""
    mix = parse_lengths("uniform:1-20")
    assert make_texts(mix, 50, 7) == make_texts(mix, 50, 7)
    assert make_texts(mix, 50, 7) != make_texts(mix, 50, 8)
    assert mix.draw(random.Random(3)) == mix.draw(random.Random(3))


@pytest.mark.parametrize(
    "mix",
    ["", "fixed", "fixed:0", "fixed:8-9", "uniform:9", "uniform:9-8", "normal:30",
     "lognormal:0", "lognormal:30,max=0", "lognormal:30,min=2", "fixed:1.2.3"],
)  # fmt: skip
def test_a_wrong_mix_is_told_with_the_right_ones(mix: str) -> None:
    """One line that shows how it is written."""
    with pytest.raises(ConfigError, match=r"lognormal:MEAN.*uniform:LOW-HIGH"):
        parse_lengths(mix)
