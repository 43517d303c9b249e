"""What the native handler works on: requests, and the texts in them as jobs of their own.

An entry of a request is one row or several (zero-shot classification reads a pair for each label),
and a row one window or several. Each window is a job: chosen and run like that of any other request. Which jobs run together next is a pure function, `choose`.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, TypeVar, cast

import msgspec

from flambeau.engines.attribution import NoGradientsError, PathPoint
from flambeau.engines.base import Outputs, RowLimits, TokenSequence, group_by_length
from flambeau.errors import PredictionError
from flambeau.handlers.token_events import Event, Reply
from flambeau.tasks.base import (
    AnswerOptions,
    BaseTask,
    Continuation,
    Encoding,
    ForwardTask,
    Inputs,
    Reading,
    Row,
    RowOutputs,
    Window,
)
from flambeau.types import BULK_TURN, JsonValue

Result = TypeVar("Result")

Made = list[Continuation] | Outputs | list[PathPoint] | NoGradientsError | PredictionError
"""What a model makes of a job."""
_GONE: Outputs = {}

TOKENS_HEADER = "x-flambeau-tokens"
TRUNCATED_HEADER = "x-flambeau-truncated"

PATIENCE = 3
"""So many micro-batches may overtake a job, because its text is longer; then its turn has come."""


class ResponseHeaders(Protocol):
    """What is needed here of TorchServe's context."""

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """Set a header of the answer to item `idx`."""


class Usage(msgspec.Struct, frozen=True):
    """What was read, and generated, for one entry. `truncated`: some of its text was not read."""

    tokens: int
    truncated: bool
    characters_used: int
    windows: int


class GenerationUsage(Usage, frozen=True):
    """`tokens` counts those that were read and generated; of several sequences, of all of them."""

    prompt_tokens: int
    generated_tokens: int
    finish_reason: str


class Answer(msgspec.Struct, frozen=True):
    """The answer for one entry of a request, with its evidence."""

    value: JsonValue
    usage: Usage


def sequence_of(encoding: Encoding) -> TokenSequence:
    """What an engine gets of a window."""
    return TokenSequence(
        encoding.ids, encoding.type_ids, encoding.arrays, encoding.cost, encoding.wanted
    )


def with_wanted(task: BaseTask, reading: Reading) -> Reading:
    """A reading whose windows say which tokens' outputs the task needs."""
    if not isinstance(task, ForwardTask):
        return reading
    wanted = [task.wanted(window) for window in reading.windows]
    if all(each is None for each in wanted):  # most tasks, for which nothing is copied
        return reading
    windows = [
        msgspec.structs.replace(window, wanted=each)
        for window, each in zip(reading.windows, wanted, strict=True)
    ]
    return msgspec.structs.replace(reading, windows=windows)


class Job:
    """One window of a row: what is chosen and run. `made` is None until it has run."""

    __slots__ = ("encoding", "made", "overtaken", "part", "sequence")
    alone: ClassVar[bool] = False
    """Whether it is a pass of its own, which no other job can share."""

    def __init__(self, part: "Part", encoding: Encoding) -> None:
        self.part = part
        self.encoding = encoding
        self.sequence = sequence_of(encoding)
        self.overtaken = 0
        self.made: Made | None = None

    @property
    def request(self) -> "Request":
        """Whose it is."""
        return self.part.request

    @property
    def options(self) -> AnswerOptions:
        """How the request wants its answers."""
        return self.part.request.options

    @property
    def tokens(self) -> int:
        """What running it costs."""
        return len(self.encoding)

    @property
    def text_key(self) -> object:
        """Equal for jobs for which a model computes the same, as far as texts go."""
        if self.sequence.arrays:
            return self
        return tuple(self.sequence.ids), tuple(self.sequence.type_ids)


class Part:
    """One entry of a request: the rows that the model reads for it, each as jobs."""

    __slots__ = ("answer", "entry", "jobs", "left", "readings", "request", "rows")

    def __init__(
        self,
        request: "Request",
        entry: Any,
        rows: Sequence[Row],
        readings: Sequence[Reading],
    ) -> None:
        self.request = request
        self.entry = entry
        self.rows = rows
        self.readings = readings
        self.jobs = [[Job(self, window) for window in reading.windows] for reading in readings]
        self.left = sum(map(len, self.jobs))
        self.answer: Answer | None = None

    def outputs(self) -> list[RowOutputs]:
        """What the model made of each row, once nothing is left."""
        return [
            RowOutputs(row, [Window(job.encoding, cast("Outputs", job.made)) for job in jobs])
            for row, jobs in zip(self.rows, self.jobs, strict=True)
        ]

    def usage(self) -> Usage:
        """What was read for it."""
        windows = [window for reading in self.readings for window in reading.windows]
        return Usage(
            tokens=sum(map(len, windows)),
            truncated=any(reading.truncated for reading in self.readings),
            characters_used=sum(reading.characters_used for reading in self.readings),
            windows=len(windows),
        )

    def generation_usage(self, made: Sequence[Continuation]) -> GenerationUsage:
        """What was read for it, and generated."""
        read = self.usage()
        generated = sum(each.generated_tokens for each in made)
        return GenerationUsage(
            read.tokens + generated,
            read.truncated,
            read.characters_used,
            read.windows,
            read.tokens,
            generated,
            made[0].finish_reason,
        )


class Request:
    """Row `index` of a batch, parsed and tokenised.

    `bulk`: it yields to others (see `choose`); None until its size has decided. `wanted` says
    whether somebody waits for the answer. A request whose answer is streamed has a `reply`, `emit`
    sends a part of it, and `last` is its end.
    """

    __slots__ = (
        "bulk",
        "emit",
        "error",
        "index",
        "inputs",
        "last",
        "left",
        "options",
        "parts",
        "reply",
        "wanted",
    )

    def __init__(self, index: int, inputs: Inputs, options: AnswerOptions) -> None:
        self.index = index
        self.inputs = inputs
        self.options = options
        self.bulk: bool | None = None
        self.error: PredictionError | None = None
        self.parts: list[Part] = []
        self.left = 0
        self.wanted: Callable[[], bool] = lambda: True
        self.reply: Reply | None = None
        self.emit: Callable[[bytes], None] = lambda _part: None
        self.last: Event | None = None

    @property
    def done(self) -> bool:
        """Whether every entry has its answer, or one of them an error."""
        return self.error is not None or not self.left

    @property
    def jobs(self) -> list[Job]:
        """All that is to be run for it, or was."""
        return [job for part in self.parts for jobs in part.jobs for job in jobs]

    def plan(self, parts: list[Part]) -> None:
        """These are the request's entries."""
        self.parts = parts
        self.left = len(parts)

    def waiting(self) -> list[Job]:
        """What of it is to be run now."""
        return [] if self.done else [job for job in self.jobs if job.made is None]

    def part(self, entry: Any, rows: Sequence[Row], readings: Sequence[Reading]) -> Part:
        """An entry of it, tokenised."""
        return Part(self, entry, rows, readings)

    def usage(self) -> list[Usage]:
        """What each entry took: what was read of it, and once it is answered what was generated."""
        return [part.answer.usage if part.answer else part.usage() for part in self.parts]

    def assemble(self, task: BaseTask) -> JsonValue:
        """Its answer, from those of its entries."""
        answers = [part.answer.value for part in self.parts if part.answer is not None]
        return task.assemble(answers, self.options)

    def headers(self) -> dict[str, str]:
        """What its answer's headers say of how it was made; of a stream that begins, what was read."""
        truncated = any(each.truncated for each in self.usage())
        return {
            TOKENS_HEADER: str(self.tokens()),
            TRUNCATED_HEADER: "true" if truncated else "false",
        }

    def set_headers(self, context: ResponseHeaders) -> None:
        """Give its answer the headers."""
        for name, text in self.headers().items():
            context.set_response_header(self.index, name, text)

    def tokens(self) -> int:
        """What was read and generated for it."""
        return sum(each.tokens for each in self.usage())

    def tell(self, event: Event) -> None:
        """Send a part of a streamed answer."""
        assert self.reply is not None
        if part := self.reply.part(event):
            self.emit(part)
            self.reply.begun = True

    def settle(self, job: Job, made: "Made") -> Part | None:
        """What the model made of a job; its entry if that is complete now.

        The first error is the request's: what is left of it need not run.
        """
        job.made = made
        job.part.left -= 1
        if isinstance(made, PredictionError):
            self.error = self.error or made
        return None if self.error is not None or job.part.left else job.part

    def answer(self, part: Part, answer: Answer | PredictionError) -> None:
        """An entry's answer. What the model made for it is let go."""
        if isinstance(answer, PredictionError):
            self.error = self.error or answer
            return
        part.answer = answer
        self.left -= 1
        for job in (job for jobs in part.jobs for job in jobs):
            job.made = _GONE


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
    groups = _groups(lane, limits)
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


def _groups(lane: Sequence[Job], limits: RowLimits | None) -> list[list[int]]:
    """Indices of jobs that may share a pass: the shortest first, then what needs a pass alone."""
    shared = [index for index, job in enumerate(lane) if not job.alone]
    lengths = [len(lane[index].sequence) for index in shared]
    if limits is None:
        groups = [[place] for place in sorted(range(len(shared)), key=lengths.__getitem__)]
    else:
        groups = group_by_length(lengths, limits)
    alone = [[index] for index, job in enumerate(lane) if job.alone]
    return [[shared[place] for place in group] for group in groups] + alone


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


def run_distinct(run: Callable[[Sequence[Job]], list[Result]], jobs: Sequence[Job]) -> list[Result]:
    """Each job's result, where equal texts run once."""
    first: dict[object, int] = {}
    distinct: list[Job] = []
    places = []
    for job in jobs:
        place = first.setdefault(job.text_key, len(distinct))
        if place == len(distinct):
            distinct.append(job)
        places.append(place)
    results = run(distinct)
    return [results[place] for place in places]
