"""What the native handler works on: requests, and the texts in them as jobs of their own.

A list in one request is as many jobs as it has entries: they are chosen, run and answered like the
texts of so many requests. Which jobs run together next is a pure function, `choose`.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from flambeau.engines.base import RowLimits, TokenSequence, group_by_length
from flambeau.errors import ErrorKind, PredictionError
from flambeau.handlers.failures import breaks_device
from flambeau.tasks.base import AnswerOptions, Encoding, Inputs, TextInput
from flambeau.types import BULK_TURN, JsonValue

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

PATIENCE = 3
"""So many micro-batches may overtake a job, because its text is longer; then its turn has come."""


class Answer(msgspec.Struct, frozen=True):
    """The answer for one text, with its evidence."""

    value: JsonValue
    tokens: int
    truncated: bool


class Job:
    """One text of a request, tokenised; `answer` is None until it has run."""

    __slots__ = ("answer", "encoding", "entry", "overtaken", "request", "sequence")

    def __init__(self, request: "Request", entry: TextInput, encoding: Encoding) -> None:
        self.request = request
        self.entry = entry
        self.encoding = encoding
        self.sequence = TokenSequence(encoding.ids, encoding.type_ids)
        self.overtaken = 0
        self.answer: Answer | PredictionError | None = None

    @property
    def options(self) -> AnswerOptions:
        """How the request wants its answers."""
        return self.request.options

    @property
    def text_key(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Equal for jobs for which a model computes the same."""
        return tuple(self.sequence.ids), tuple(self.sequence.type_ids)


class Request:
    """Row `index` of a batch, parsed and tokenised. `bulk`: it yields to others (see `choose`)."""

    __slots__ = ("bulk", "error", "index", "inputs", "jobs", "left", "options")

    def __init__(self, index: int, inputs: Inputs, options: AnswerOptions) -> None:
        self.index = index
        self.inputs = inputs
        self.options = options
        self.bulk = False
        self.error: PredictionError | None = None
        self.jobs: list[Job] = []
        self.left = 0

    @property
    def done(self) -> bool:
        """Whether every text has its answer, or one of them an error."""
        return self.error is not None or not self.left

    def plan(self, jobs: list[Job]) -> None:
        """These are the request's texts."""
        self.jobs = jobs
        self.left = len(jobs)

    def tokens(self) -> int:
        """What was read and generated for it."""
        return sum(
            job.answer.tokens if isinstance(job.answer, Answer) else len(job.encoding.ids)
            for job in self.jobs
        )

    def settle(self, job: Job, answer: Answer | PredictionError) -> None:
        """A text's answer. The first error is the request's: what is left of it need not run."""
        job.answer = answer
        self.left -= 1
        if isinstance(answer, PredictionError) and self.error is None:
            self.error = answer


def choose(
    waiting: Sequence[Job], limits: RowLimits | None, turn: int, max_requests: int = 0
) -> list[Job]:
    """The jobs that share the next forward pass: of about one length, the shortest first.

    `turn` counts passes: those of requests that are bulk get one in `BULK_TURN`, or whatever nobody
    else wants. A job that was overtaken too often goes first. `max_requests` 0 is no limit.
    """
    single = [job for job in waiting if not job.request.bulk]
    bulk = [job for job in waiting if job.request.bulk]
    lane = bulk if bulk and (not single or turn % BULK_TURN == BULK_TURN - 1) else single
    if not lane:
        return []
    if limits is None:
        groups = [
            [index] for index in sorted(range(len(lane)), key=lambda i: len(lane[i].sequence))
        ]
    else:
        groups = group_by_length([len(job.sequence) for job in lane], limits)
    late = next((index for index, job in enumerate(lane) if job.overtaken >= PATIENCE), None)
    group = groups[0] if late is None else next(each for each in groups if late in each)
    chosen = [lane[index] for index in group]
    if late is not None:  # it must be among those that the limit leaves
        chosen.sort(key=lambda job: job is not lane[late])
    chosen = _of_requests(chosen, max_requests)
    taken = set(map(id, chosen))
    for job in lane:
        job.overtaken += id(job) not in taken
    return chosen


def _of_requests(jobs: list[Job], most: int) -> list[Job]:
    """The first jobs that belong to at most so many requests."""
    if not most:
        return jobs
    requests: set[int] = set()
    kept = []
    for job in jobs:
        if id(job.request) in requests or len(requests) < most:
            requests.add(id(job.request))
            kept.append(job)
    return kept


def run_isolated(
    run: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item]
) -> list[Result | PredictionError]:
    """Run all items together; where that raises, halve until only the guilty ones fail.

    Raises what has left the device unusable for everybody.
    """
    if not items:
        return []
    try:
        return list(run(items))
    except Exception as error:
        if breaks_device(error):
            raise
        if len(items) == 1:
            return [_item_error(error)]
    middle = len(items) // 2
    return run_isolated(run, items[:middle]) + run_isolated(run, items[middle:])


def run_distinct(
    run: Callable[[Sequence[Job]], list[Result]], jobs: Sequence[Job]
) -> list[Result | PredictionError]:
    """Each job's result, where equal texts run once."""
    first: dict[object, int] = {}
    distinct: list[Job] = []
    places = []
    for job in jobs:
        place = first.setdefault(job.text_key, len(distinct))
        if place == len(distinct):
            distinct.append(job)
        places.append(place)
    results = run_isolated(run, distinct)
    return [results[place] for place in places]


def _item_error(error: Exception) -> PredictionError:
    """The error for the client, told only its type; an engine's reason goes to the log.

    Engines see numbers alone, so that no user's text is in what they raise.
    """
    if isinstance(error, PredictionError):
        return error
    logger.error("The model failed on one input.", exc_info=error)
    kind = type(error).__name__
    if kind in {"OutOfMemoryError", "MemoryError"} or "allocate memory" in str(error):
        return PredictionError(
            "The model ran out of memory on this input. Send a shorter one.",
            ErrorKind.OUT_OF_MEMORY,
        )
    return PredictionError(f"The model failed on this input ({kind}). The server's log says why.")
