"""How an explanation is computed: gradients, a chunk of points at a time, or hidden words.

Both are jobs like those of predictions, so that they take turns with them.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import msgspec
import numpy as np
from typing_extensions import override

from flambeau.engines.attribution import (
    Attribution,
    EmbeddingPath,
    FloatArray,
    GradientEngine,
    NoGradientsError,
    PathPoint,
    Target,
    integrate,
    quadrature,
)
from flambeau.engines.base import TokenSequence
from flambeau.errors import ErrorKind, PredictionError
from flambeau.handlers.explanation_answers import Method, Told, row_words, value_of
from flambeau.handlers.isolation import run_isolated
from flambeau.handlers.native_jobs import Job, Part
from flambeau.handlers.native_model import NativeModel
from flambeau.tasks.base import Encoding, TextInput


class Budget:
    """How many tokens one request may cost."""

    def __init__(self, tokens: int) -> None:
        self._limit = tokens
        self.left = tokens

    def spend(self, cost: int, detail: str, advice: str) -> None:
        """Count what an entry is going to cost. Raises `PredictionError` where that is too much."""
        if cost > self.left:
            spent = self._limit - self.left
            others = f" after {spent} for the entries before it" if spent else ""
            raise PredictionError(
                f"The explanation costs {cost} tokens ({detail}){others}; one request may cost at"
                f" most {self._limit}. {advice}",
                ErrorKind.INVALID_INPUT,
            )
        self.left -= cost


class Subject(NamedTuple):
    """The row that is explained, what its prediction's outputs were, and whose job it is."""

    part: Part
    model: NativeModel
    row: TextInput
    encoding: Encoding
    outputs: Mapping[str, Any]
    budget: Budget


class GradientJob(Job):
    """Points of a path, for one pass of their own. `made` are the points, in order."""

    __slots__ = ("engine", "path", "positions")
    alone = True

    def __init__(
        self,
        part: Part,
        encoding: Encoding,
        engine: GradientEngine,
        path: EmbeddingPath,
        positions: FloatArray,
    ) -> None:
        super().__init__(part, encoding)
        self.engine = engine
        self.path = path
        self.positions = positions.tolist()

    @property
    @override
    def tokens(self) -> int:
        return len(self.positions) * len(self.encoding.ids) * (1 + len(self.path.targets))

    def run(self) -> "list[PathPoint] | NoGradientsError | PredictionError":
        """The points; where memory does not suffice for all at once, one after the other."""

        def run(positions: Sequence[float]) -> list[PathPoint | NoGradientsError]:
            try:
                return list(self.engine.points(self.path, positions))
            except NoGradientsError as error:
                return [error] * len(positions)

        points: list[PathPoint] = []
        for result in run_isolated(run, self.positions):
            if not isinstance(result, PathPoint):
                return result
            points.append(result)
        return points


class Gradients:
    """Integrated gradients, or gradient x input, of one entry: a chunk of points at a time."""

    def __init__(
        self,
        subject: Subject,
        engine: GradientEngine,
        targets: tuple[Target, ...],
        steps: int | None,
    ) -> None:
        """`steps` None: gradient x input.

        Raises `NoGradientsError`, and `PredictionError` where it would cost too much.
        """
        method: Method = "gradient_x_input" if steps is None else "integrated_gradients"
        self.told = Told(method, engine.gradient_precision(), steps)
        self._subject = subject
        self._engine = engine
        self._weights = np.ones(1)
        self._positions = np.ones(1)
        baseline = None
        if steps is not None:
            self._positions, self._weights = _rule(steps)
            self._positions = np.concatenate([self._positions, [0.0, 1.0]])
            baseline = _baseline(subject)
        sequence = TokenSequence(subject.encoding.ids, subject.encoding.type_ids)
        self._path = EmbeddingPath(sequence, targets, baseline)
        self._points: list[PathPoint] = []
        self._charge(len(sequence), len(targets))

    def take(self, made: object) -> None:
        """Keep a job's points. Raises `NoGradientsError` where it found that there are none."""
        if isinstance(made, NoGradientsError):
            raise made
        assert isinstance(made, list)
        self._points += made

    def next_jobs(self) -> list[Job]:
        """One job, or none if all is done: others get their turn between any two."""
        rest = self._positions[len(self._points) :]
        if not len(rest):
            return []
        chunk = rest[: self._engine.points_per_pass(self._path)]
        subject = self._subject
        return [GradientJob(subject.part, subject.encoding, self._engine, self._path, chunk)]

    def attributions(self) -> list[Attribution]:
        """Each target's, once all points are there."""
        if self.told.steps is None:
            (point,) = self._points
            return [
                Attribution(tokens, float(value))
                for tokens, value in zip(point.slopes, point.values, strict=True)
            ]
        *points, start, end = self._points
        return integrate(points, self._weights, start=start, end=end)

    def _charge(self, length: int, targets: int) -> None:
        count, passes = len(self._positions), 1 + targets
        budget = self._subject.budget
        most = budget.left // (length * passes) - 2
        advice = "Send a shorter text" + (", or name one target." if targets > 1 else ".")
        if self.told.steps is not None and most >= 1:
            advice = f"Lower n_steps to at most {most}, or send less text."
        detail = f"{count} points x {length} tokens x {passes} passes, forward and back"
        budget.spend(count * length * passes, detail, advice)


class Occlusion:
    """What changes where a word is hidden, for each word of one entry: texts like any others."""

    def __init__(self, subject: Subject, targets: tuple[Target, ...], reason: str | None) -> None:
        """Raises `PredictionError` where it would cost too much."""
        self.told = Told("occlusion", subject.model.engine.precision, reason=reason)
        self._targets = targets
        self._whole = subject.outputs
        hidden = list(_hidden(subject))
        length = len(subject.encoding.ids)
        subject.budget.spend(
            len(hidden) * length, f"{len(hidden)} words x {length} tokens", "Send a shorter text."
        )
        self._jobs: list[Job] = [Job(subject.part, encoding) for encoding in hidden]
        self._given = False

    def next_jobs(self) -> list[Job]:
        """All of them, then none."""
        jobs = [] if self._given else self._jobs
        self._given = True
        return jobs

    def attributions(self) -> list[Attribution]:
        """Each target's, a number for each word."""
        found = []
        for target in self._targets:
            value = value_of(self._whole, target)
            words = [value - value_of(job.made, target) for job in self._jobs]
            found.append(Attribution(np.array(words, dtype=np.float64), value))
        return found


def _hidden(subject: Subject) -> Iterator[Encoding]:
    """The text without each of its words: the mask stands in for it, so that places hold."""
    mask = subject.model.tokenizer.stand_in("mask_token", "unk_token")
    for word in row_words(subject.row, subject.encoding):
        ids = list(subject.encoding.ids)
        for index in word.tokens:
            ids[index] = mask
        yield msgspec.structs.replace(subject.encoding, ids=ids)


def _baseline(subject: Subject) -> tuple[int, ...]:
    """The text's special tokens, with padding for all others."""
    tokenizer = subject.model.tokenizer
    pad = tokenizer.pad_id
    if pad is None:
        pad = tokenizer.stand_in("mask_token", "unk_token")
    rows = zip(subject.encoding.ids, subject.encoding.parts, strict=True)
    return tuple(token if part is None else pad for token, part in rows)


_rule = cache(quadrature)
