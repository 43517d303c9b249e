"""How near one engine's answers are to another's: labels, probabilities, directions. Pure."""

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from flambeau.tasks.base import Arrays
from flambeau.types import TaskName

_TOKENS = frozenset({"token-classification", "fill-mask"})
"""Tasks in which each token has a label of its own."""

Array = npt.NDArray[np.float32]

NEAR = 0.01
"""What the cosine of two vectors lacks to 1 where they may stand for one text: about 8 degrees."""


class Agreement(msgspec.Struct, frozen=True):
    """What two sets of outputs for the same texts have in common.

    `labels` is the share of equal best labels, of all texts or, where each token has one, of all
    tokens; for spans both ends must be equal. `difference` is the largest one between two
    probabilities, `scores` between two raw scores, and `cosine` the smallest between two texts'
    raw scores.

    Hidden states have no labels: there, `cosine` is that of two texts' mean states, `difference` is
    what it lacks to 1, and a text is counted among `labels` where that is at most `NEAR`.
    """

    labels: float
    difference: float
    scores: float
    cosine: float
    count: int

    def within(self, labels: float, difference: float) -> bool:
        """Whether at least so many labels agree and no probability is further away."""
        return self.labels >= labels and self.difference <= difference


def compare(
    task: TaskName, expected: Sequence[Arrays], found: Sequence[Arrays], *, many_labels: bool
) -> Agreement:
    """Compare outputs text by text. `many_labels`: each label has a probability of its own."""
    if expected and "last_hidden_state" in expected[0]:
        return _compare_states(expected, found)
    equal: list[npt.NDArray[np.bool_]] = []
    differences, scores, cosines = [0.0], [0.0], [1.0]
    for one, other in zip(expected, found, strict=True):
        agrees = []
        for name, left in one.items():
            right = other[name]
            agrees.append(_labels(left, many_labels) == _labels(right, many_labels))
            probabilities = _probabilities(left, many_labels), _probabilities(right, many_labels)
            differences.append(float(np.abs(probabilities[0] - probabilities[1]).max()))
            scores.append(float(np.abs(left - right).max()))
            cosines.append(_cosine(left, right))
        same = np.logical_and.reduce(agrees)
        equal.append(same.ravel() if task in _TOKENS else same.all(keepdims=True))
    flat = np.concatenate([one.ravel() for one in equal]) if equal else np.ones(1, dtype=bool)
    return Agreement(
        labels=float(flat.mean()),
        difference=max(differences),
        scores=max(scores),
        cosine=min(cosines),
        count=len(flat),
    )


def _compare_states(expected: Sequence[Arrays], found: Sequence[Arrays]) -> Agreement:
    """Compare states `[tokens, width]`, whose mean is a text's vector."""
    pairs = [
        (one["last_hidden_state"], other["last_hidden_state"])
        for one, other in zip(expected, found, strict=True)
    ]
    cosines = np.array([_cosine(one.mean(axis=0), other.mean(axis=0)) for one, other in pairs])
    return Agreement(
        labels=float((1 - cosines <= NEAR).mean()),
        difference=float(max(0.0, 1 - cosines.min())),
        scores=max(float(np.abs(one - other).max()) for one, other in pairs),
        cosine=float(cosines.min()),
        count=len(pairs),
    )


def _labels(scores: Array, many_labels: bool) -> npt.NDArray[np.generic]:
    """The best label of each text or token; each label's own yes or no where there may be many."""
    if many_labels or scores.shape[-1] == 1:
        return np.asarray(scores > 0)
    return np.asarray(scores.argmax(-1))


def _probabilities(scores: Array, many_labels: bool) -> Array:
    if many_labels or scores.shape[-1] == 1:
        return np.asarray(1 / (1 + np.exp(-scores.clip(-60, 60))), dtype=np.float32)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True), dtype=np.float32)


def _cosine(one: Array, other: Array) -> float:
    left, right = one.ravel().astype(np.float64), other.ravel().astype(np.float64)
    size = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / size if size else 1.0
