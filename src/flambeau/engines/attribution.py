"""What engines with gradients share with whoever asks for them: points on a line of embeddings.

An attribution says how much each token of a text adds to a value that a model gives. The value is a
`Target`, a weighted sum of the model's outputs. The text's embeddings are the end of a straight line
that begins at a baseline's; at a point of it an engine gives the target's value and, for each
token, the slope along the token's own part of the line. Integrated gradients is the integral of the
slopes over the line (Sundararajan et al., 2017): by Gauss and Legendre's rule a weighted sum of few
of them. Gradient x input is the slope at the end of the line from nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import msgspec
import numpy as np
import numpy.typing as npt

from flambeau.engines.base import Engine, TokenSequence

FloatArray = npt.NDArray[np.float64]


class NoGradientsError(Exception):
    """The model cannot be differentiated; the text says why, for people."""


class Place(NamedTuple):
    """One number of a model's outputs for one sequence, and how much it counts.

    `at` is its index in the array without its rows' axis: `(label,)`, `(token, label)` or `(token,)`.
    """

    output: str
    at: tuple[int, ...]
    weight: float = 1.0


Target = tuple[Place, ...]
"""The value that is explained: the places' weighted sum."""


class EmbeddingPath(msgspec.Struct, frozen=True):
    """The line from a baseline's embeddings to a text's, and what is asked at its points.

    `baseline` has as many tokens as the text; None: embeddings of zeros. Positions and token types
    are the text's all along the line.
    """

    sequence: TokenSequence
    targets: tuple[Target, ...]
    baseline: tuple[int, ...] | None = None


class PathPoint(NamedTuple):
    """At one point of a path: each target's value `[targets]`, each token's slope `[targets, tokens]`."""

    values: FloatArray
    slopes: FloatArray


@runtime_checkable
class GradientEngine(Engine, Protocol):
    """An engine that can differentiate its model."""

    def gradient_precision(self) -> str:
        """What gradients are computed in, such as `fp32`. Raises `NoGradientsError`."""

    def points_per_pass(self, path: EmbeddingPath) -> int:
        """How many points should share a pass, so that it takes about as long as one of texts."""

    def points(self, path: EmbeddingPath, positions: Sequence[float]) -> list[PathPoint]:
        """The path at each position, 0 (baseline) to 1 (text), in one pass.

        Raises `NoGradientsError`, and what the framework raises.
        """


def quadrature(steps: int) -> tuple[FloatArray, FloatArray]:
    """Gauss and Legendre's rule on the line from 0 to 1: positions and weights, both `[steps]`."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return 0.5 * (1.0 + nodes), 0.5 * weights


class Attribution(NamedTuple):
    """What each token adds to one target: `tokens` `[tokens]`.

    `value` and `baseline` are the target's values at the path's ends; `delta`, by how much the
    tokens' sum misses the difference of the two. Both are None where no path was integrated.
    """

    tokens: FloatArray
    value: float
    baseline: float | None = None
    delta: float | None = None


def integrate(
    points: Sequence[PathPoint], weights: FloatArray, *, start: PathPoint, end: PathPoint
) -> list[Attribution]:
    """Integrated gradients of each target from the slopes at the quadrature's positions.

    `start` and `end` are the path's points at 0 and 1.
    """
    slopes = np.einsum("s,skt->kt", weights, np.stack([point.slopes for point in points]))
    attributions = []
    for tokens, value, baseline in zip(slopes, end.values, start.values, strict=True):
        delta = float(tokens.sum() - (value - baseline))
        attributions.append(Attribution(tokens, float(value), float(baseline), delta))
    return attributions
