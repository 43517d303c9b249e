"""What a suite of the proving ground is: what it proves, what it measures, what would make it red."""

import random
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Literal

import msgspec
from typing_extensions import override

Profile = Literal["push", "nightly"]
Figure = int | float | str
Figures = dict[str, Figure]


class Limit(msgspec.Struct, frozen=True):
    """What one figure has to be: equal to `exactly`, or between `low` and `high`, ends included.

    `nightly` limits bind on the nightly profile only; a figure that is missing breaks its limit.
    """

    figure: str
    exactly: Figure | None = None
    low: float | None = None
    high: float | None = None
    nightly: bool = False

    def holds(self, figures: Mapping[str, Figure]) -> bool:
        """Whether the figure is what it has to be."""
        value = figures.get(self.figure)
        if value is None:
            return False
        if self.exactly is not None:
            return value == self.exactly
        if isinstance(value, str):
            return False
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    @override
    def __str__(self) -> str:
        """The limit as a reader writes it, such as `unanswered = 0`."""
        if self.exactly is not None:
            return f"{self.figure} = {self.exactly}"
        ends = [f">= {self.low:g}"] if self.low is not None else []
        ends += [f"<= {self.high:g}"] if self.high is not None else []
        return f"{self.figure} {' and '.join(ends)}"


class Run(msgspec.Struct, frozen=True):
    """One run of a suite: its seed, its size, and an empty folder of its own.

    `control` names the flaw that is in force, which the suite has to notice; None in a real run.
    """

    suite: str
    seed: int
    profile: Profile
    folder: Path
    control: str | None = None

    def random(self) -> random.Random:
        """A source of random numbers that the seed alone decides."""
        return random.Random(f"{self.suite}:{self.seed}")

    def amount(self, push: int, nightly: int, control: int | None = None) -> int:
        """How much to do: a run with a flaw needs only as much as shows it."""
        if self.control is not None and control is not None:
            return control
        return nightly if self.profile == "nightly" else push


class Suite(msgspec.Struct, frozen=True):
    """One of T1 to T30 of the promises.

    `run` returns the figures, which `limits` judge. `controls` are flaws by name: each breaks
    Flambeau in the process that it is called in, as a careless change would, and must make the
    suite red. A suite that is `alone` needs both cores; others may run beside one more.
    `promises` are the ids that it proves, such as `G2`.
    """

    name: str
    title: str
    promises: tuple[str, ...]
    limits: tuple[Limit, ...]
    controls: Mapping[str, Callable[[], None]]
    run: Callable[[Run], Figures]
    alone: bool = False


def suite_names() -> list[str]:
    """Names of all suites, `t1` to `t30`: a file `t08_worker_chaos.py` of this folder is `t8`."""
    return sorted(_files(), key=lambda name: int(name[1:]))


def load_suite(name: str) -> Suite:
    """A suite by its name. Raises `KeyError` where there is none."""
    suite: Suite = import_module(f"tests.trust.{_files()[name].stem}").SUITE
    return suite


def _files() -> dict[str, Path]:
    found = Path(__file__).parent.glob("t[0-9][0-9]_*.py")
    return {f"t{int(file.name[1:3])}": file for file in found}
