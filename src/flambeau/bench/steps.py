"""Several loads in a row: one setting swept, or the peak searched."""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from flambeau.bench.load import Load
from flambeau.bench.outcome import Outcome
from flambeau.errors import ConfigError

SWEPT = ("rate", "clients", "words")

_MOST_CLIENTS = 512
_GAIN = 1.05
"""Doubling the clients must bring 5 % more, or the peak is reached."""
_PATIENCE = 2
"""Doublings without a gain before the search ends: batching servers have plateaus."""


class Sweep(NamedTuple):
    """One setting and the values it takes in turn."""

    setting: str
    values: list[float]


def parse_sweep(text: str) -> Sweep:
    """What `rate=10,20,40`, `clients=1,8,32` or `words=16,64,256` asks for. Raises `ConfigError`."""
    setting, _, rest = text.replace(" ", "").partition("=")
    try:
        values = [float(value) for value in rest.split(",")]
    except ValueError:
        values = []
    whole = setting == "rate" or all(value == int(value) for value in values)
    if setting not in SWEPT or not values or min(values) <= 0 or not whole:
        raise ConfigError(
            f"--sweep {text!r} cannot be read. Write rate=10,20,40, clients=1,8,32 or words=16,64,256."
        )
    return Sweep(setting, values)


def with_setting(load: Load, setting: str, value: float) -> Load:
    """The load with this many clients (closed loop) or at this rate (open loop)."""
    if setting == "rate":
        return msgspec.structs.replace(load, rate=value)
    if setting == "clients":
        return msgspec.structs.replace(load, clients=int(value), rate=None)
    return load


def find_peak(load: Load, run: Callable[[Load], Outcome]) -> list[Outcome]:
    """Double the clients of a closed loop, from one, until that brings no more; all outcomes."""
    outcomes: list[Outcome] = []
    best, without_gain, clients = 0.0, 0, 1
    while without_gain < _PATIENCE and clients <= _MOST_CLIENTS:
        outcome = run(with_setting(load, "clients", clients))
        outcomes.append(outcome)
        if outcome.interrupted or not outcome.succeeded:
            break
        without_gain = 0 if outcome.throughput > best * _GAIN else without_gain + 1
        best = max(best, outcome.throughput)
        clients *= 2
    return outcomes


def peak_of(outcomes: list[Outcome], most_p99_ms: float | None) -> Outcome | None:
    """The outcome with the highest throughput, among those whose p99 is at most that."""
    allowed = [
        each
        for each in outcomes
        if each.succeeded and (most_p99_ms is None or each.latency_ms["p99"] <= most_p99_ms)
    ]
    return max(allowed, key=lambda each: each.throughput, default=None)
