"""One vector of a text's token states, in the ways that sentence-transformers knows.

>>> states = np.array([[0.0, 4.0], [2.0, 2.0]], dtype=np.float32)
>>> pool(states, ("mean",)).tolist(), pool(states, ("max", "last-token")).tolist()
([1.0, 3.0], [2.0, 4.0, 2.0, 2.0])
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

PoolingMode = Literal["cls", "mean", "max", "last-token", "mean_sqrt_len", "weightedmean"]

LIBRARY_MODES: Mapping[str, PoolingMode] = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weightedmean",
    "lasttoken": "last-token",
}
"""sentence-transformers' names, in the order in which its older configurations mean several."""


def pool(states: Array, modes: Sequence[PoolingMode], first: int = 0) -> Array:
    """The vectors of all modes, one after the other: `[tokens, width]` to `[modes * width]`.

    Tokens before `first`, such as those of a prompt, are left out, unless no others are there.
    """
    kept = states[first:] if first < len(states) else states
    begin = first if first < len(states) else 0
    if len(modes) == 1:
        return _POOL[modes[0]](kept, begin)
    return np.concatenate([_POOL[mode](kept, begin) for mode in modes])


def _weighted_mean(states: Array, first: int) -> Array:
    """Later tokens weigh more: the n-th of the row n times."""
    weights = np.arange(first + 1, first + 1 + len(states), dtype=np.float32)
    return np.asarray(weights @ states / weights.sum(), dtype=np.float32)


_POOL: Mapping[PoolingMode, Callable[[Array, int], Array]] = {
    "cls": lambda states, _: states[0],
    "mean": lambda states, _: states.mean(axis=0),
    "max": lambda states, _: states.max(axis=0),
    "last-token": lambda states, _: states[-1],
    "mean_sqrt_len": lambda states, _: states.sum(axis=0) / np.float32(len(states) ** 0.5),
    "weightedmean": _weighted_mean,
}
