"""How long the generated texts of a load are, and the texts themselves."""

import math
import random
import re

import msgspec

from flambeau.errors import ConfigError

_SIGMA = 0.8
"""Spread of the logarithm where none is given: 90 % of the texts are within 0.2 to 2.7 times the mean."""
_MAXIMUM = 512
_HELP = (
    "Allowed: lognormal:MEAN[,max=N][,sigma=S], uniform:LOW-HIGH and fixed:N, counted in words"
    " (each is one token of the usual English vocabularies)."
)
_TEXT = (
    "the of and to in for is on that by this with you it not or be are from at as your all have"
    " new more an was we will home can us about if page my has search free but our one other do no"
    " information time they site he up may what which their news out use any there see only so his"
    " when contact here business who web also now help get view online first am been would how were"
    " services some these click its like service than find price date back top people had list name"
    " just over state year day into email two health world next used go work last most products"
    " music buy data make them should product system post her city add policy number such please"
    " available copyright support message after best software then good video well where info"
    " rights public books high school through each links she review years order very privacy book"
    " items company read group need many user said does set under general research university"
    " january mail full map reviews program life know games way days management part could great"
    " united hotel real item international center must store travel comments made development"
    " report off member details line terms before hotels did send right type because local those"
    " using results office education national car design take posted internet address community"
    " within states area want phone shipping reserved subject between forum family long based code"
    " show even black check special prices website index being women much sign file link open today"
    " technology south case project same pages version section own found sports house related"
    " security both county american photo game members power while care network down computer"
)
_WORDS = _TEXT.split()


class Lengths(msgspec.Struct, frozen=True):
    """A distribution of text lengths, in words.

    `lognormal`: `a` is the mean (before the cut at `maximum`), `b` the spread of the logarithm;
    `uniform`: from `a` to `b`, both included; `fixed`: always `a`.
    """

    kind: str
    a: float
    b: float = 0.0
    maximum: int = _MAXIMUM

    def draw(self, source: random.Random) -> int:
        """One length, at least 1."""
        if self.kind == "lognormal":
            length = source.lognormvariate(math.log(self.a) - self.b**2 / 2, self.b)
            return max(1, min(self.maximum, round(length)))
        if self.kind == "uniform":
            return source.randint(int(self.a), int(self.b))
        return int(self.a)


def parse_lengths(text: str) -> Lengths:
    """The distribution that `lognormal:30,max=256`, `uniform:8-64` or `fixed:128` names."""
    found = re.fullmatch(r"(\w+):([\d.]+)(?:-(\d+))?((?:,\w+=[\d.]+)*)", text.replace(" ", ""))
    if found is None:
        raise ConfigError(f"The length mix {text!r} is none. {_HELP}")
    kind, low, high, rest = found.groups()
    options = dict(part.split("=") for part in rest.split(",") if part)
    try:
        lengths = _read(kind, float(low), high, options)
    except ValueError:
        lengths = None
    if lengths is None or options:
        raise ConfigError(f"The length mix {text!r} is none. {_HELP}")
    return lengths


def _read(kind: str, low: float, high: str | None, options: dict[str, str]) -> Lengths | None:
    """Takes what it knows out of `options`; None where the numbers make no distribution."""
    if kind == "lognormal" and high is None and low > 0:
        maximum = int(options.pop("max", str(_MAXIMUM)))
        sigma = float(options.pop("sigma", str(_SIGMA)))
        return Lengths(kind, low, sigma, maximum) if maximum > 0 else None
    if kind == "uniform" and high is not None and 1 <= int(low) <= int(high):
        return Lengths(kind, int(low), int(high), int(high))
    if kind == "fixed" and high is None and low >= 1:
        return Lengths(kind, int(low), 0.0, int(low))
    return None


def make_texts(lengths: Lengths, count: int, seed: int) -> list[str]:
    """`count` texts of common English words; the same ones for the same arguments."""
    source = random.Random(seed)  # noqa: S311 - no secret depends on it
    return [" ".join(source.choices(_WORDS, k=lengths.draw(source))) for _ in range(count)]
