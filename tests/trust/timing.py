"""Whether a comparison takes longer for a key that is nearly right: a t-test in dudect's manner."""

import gc
import random
import statistics
import time
from collections.abc import Callable

import numpy as np

LEAK = 4.5
"""A |t| above has a chance of 1 in 100,000 where nothing leaks."""

_TIMES = 3
_DIFFERENT = 1000
"""Texts of each class: as many objects for both, made in turns, so that caches favour neither."""
_QUANTILES = (0.5, 0.75, 0.9)
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def compare_t(
    compare: Callable[[str], object], right: str, samples: int, chance: random.Random
) -> float:
    """Welch's t between texts that share all but the last characters with `right` and random ones.

    Slow outliers are cropped, at the same time for both classes. What else the machine does may
    shift one measurement; a leak shifts each: |t| is large in three of them.
    """
    smallest = float("inf")
    for _ in range(_TIMES):
        smallest = min(smallest, _measure(compare, right, samples, chance))
        if smallest < LEAK:
            break
    return smallest


def _measure(
    compare: Callable[[str], object], right: str, samples: int, chance: random.Random
) -> float:
    near, far = [], []
    for _ in range(_DIFFERENT):
        near.append(right[:-2] + "".join(chance.choices(_ALPHABET, k=2)))
        far.append("".join(chance.choices(_ALPHABET, k=len(right))))
    texts = (near, far)
    order = [(kind, chance.randrange(_DIFFERENT)) for kind in chance.choices((0, 1), k=samples)]
    times = np.empty(samples)
    clock = time.perf_counter_ns
    gc.disable()
    try:
        for number, (kind, which) in enumerate(order):
            text = texts[kind][which]
            begin = clock()
            compare(text)
            times[number] = clock() - begin
    finally:
        gc.enable()
    kinds = np.array([kind for kind, _ in order])
    return statistics.median(_t(times, kinds, quantile) for quantile in _QUANTILES)


def _t(times: np.ndarray, kinds: np.ndarray, quantile: float) -> float:
    kept = times <= np.quantile(times, quantile)
    one, other = times[kept & (kinds == 0)], times[kept & (kinds == 1)]
    error = np.sqrt(one.var(ddof=1) / len(one) + other.var(ddof=1) / len(other))
    return float(abs(one.mean() - other.mean()) / error) if error else 0.0
