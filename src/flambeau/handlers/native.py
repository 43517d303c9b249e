"""The built-in Transformers handler: a task, a tokenizer and an engine behind `handle`.

It has the shape of any TorchServe handler. An item of the result that is a `PredictionError` is
that item's own error; its neighbours are answered.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from flambeau.engines.base import GENERATION_LIMITS, Outputs
from flambeau.errors import ErrorKind, PredictionError
from flambeau.handlers.explanation_methods import GradientJob
from flambeau.handlers.explanation_request import read_explanation
from flambeau.handlers.isolation import Headroom, hidden_error
from flambeau.handlers.limits import MAX_REQUEST_CHARS, MAX_REQUEST_TOKENS, MAX_ROWS
from flambeau.handlers.native_answers import generated_answer, guarded, postprocess
from flambeau.handlers.native_context import HandlerContext
from flambeau.handlers.native_continuations import Continuations
from flambeau.handlers.native_explanations import ExplainedPart, Explanation
from flambeau.handlers.native_generation import generation_settings, rows_of
from flambeau.handlers.native_jobs import (
    Answer,
    Job,
    Made,
    Part,
    Request,
    choose,
    run_distinct,
    with_wanted,
)
from flambeau.handlers.native_model import Device, NativeModel, load_model, run_example
from flambeau.handlers.native_request import (
    OUTPUT_HEADER,
    is_form,
    read_lane,
    read_row,
    read_shape,
    with_form_hint,
)
from flambeau.handlers.token_events import PLAIN_TEXT, Reply, wants_events
from flambeau.tasks.base import (
    Continuation,
    ForwardTask,
    GenerationTask,
    Inputs,
    Reading,
    Row,
    WindowRule,
)
from flambeau.types import LANE_HEADER, JsonValue, OutputShape, Phases

logger = logging.getLogger(__name__)

BULK_ENTRIES = 8
"""A request of more rows than this is bulk work unless it says otherwise."""


class TransformersHandler:
    """Serves a Transformers model. See the module's docstring for what `handle` returns."""

    default_output: OutputShape = "full"
    """The answers' shape where neither the request nor the archive says. Subclasses may set it."""
    default_batch_size = 32
    """The batch size where neither the registration nor the archive gives one."""

    _model: NativeModel

    def __init__(self, default_output: OutputShape | None = None) -> None:
        if default_output is not None:
            self.default_output = default_output
        self.initialized = False
        self._phases: list[Phases] = []
        self._reading = 0.0
        self._turn = 0
        self._headroom = Headroom()
        self._continuations: Continuations | None = None

    def initialize(self, context: HandlerContext) -> None:
        """Load the archive's model and run its task's example once.

        Raises `ConfigError` for wrong settings, `LoadError` where the model does not load or does
        not run, and `NotShareableError` where a fork would not survive it.
        """
        self._model = load_model(
            Path(str(context.system_properties["model_dir"])),
            context.manifest or {},
            context.model_yaml_config or {},
            device=Device(
                _gpu_index(context.system_properties.get("gpu_id")), context.compute_threads
            ),
            measured=context.measured_engine,
            to_fork=context.to_fork,
        )
        self.initialized = True
        logger.info("Serving: %s.", ", ".join(f"{key} {text}" for key, text in self.info().items()))

    def begin(self, threads: int) -> None:
        """Get ready to answer in this process with so many compute threads."""
        self._model.engine.begin(threads)

    def canary(self) -> None:
        """Run the task's example. Raises what goes wrong."""
        run_example(self._model)

    def info(self) -> dict[str, str]:
        """How the model is served, for people."""
        own = self._model.task.sample()
        differs = isinstance(own, str) and own != self._model.task.example
        return {
            "task": self._model.task.name,
            "engine": self._model.engine_name,
            "output": self._model.settings.output or self.default_output,
            "max_length": str(self._model.reader.max_length),
            "device": self._model.engine.device,
            "precision": self._model.engine.precision,
            "batching": "packed" if self._is_packed() else "padded",
            **({"example": str(own)} if differs else {}),
        }

    def _is_packed(self) -> bool:
        limits = self._model.engine.limits
        return limits is not None and limits.packed

    def budget(self) -> int:
        """Tokens that one forward pass should have, 0 where rows run alone."""
        if isinstance(self._model.task, GenerationTask):
            return GENERATION_LIMITS.max_tokens
        limits = self._headroom.limits(self._model.engine.limits)
        return limits.max_tokens if limits is not None else 0

    def take_phases(self) -> list[Phases]:
        """Where the time of the batches since the last call went."""
        taken, self._phases = self._phases, []
        return taken

    def handle(self, data: Sequence[object], context: HandlerContext) -> list[object]:
        """Answer each row of a batch; a `PredictionError` stands for a row without an answer."""
        requests = self.read(data, context)
        reading = [each for each in requests if isinstance(each, Request)]
        for each in reading:
            each.reply = None  # there is nobody to send parts to
        while waiting := [job for each in reading for job in each.waiting()]:
            self.step(waiting)
        return [
            self.result(each, context) if isinstance(each, Request) else each for each in requests
        ]

    def read(self, data: Sequence[object], context: HandlerContext) -> list[Request | object]:
        """Parse and tokenise each row. What is no `Request` is a row's whole result already.

        May run in another thread than the rest.
        """
        if context.get_request_header(0, "describe") == "True":
            return [dict(self.info()) for _ in data]  # such requests come alone
        started = time.monotonic()
        parsed = [self._parse(index, row, context) for index, row in enumerate(data)]
        self._tokenise_isolated([each for each in parsed if isinstance(each, Request)])
        self._reading += time.monotonic() - started
        return list(parsed)

    def step(self, waiting: Sequence[Job], max_requests: int = 0) -> None:
        """Run what should come next of the waiting jobs, and settle what is complete."""
        if isinstance(self._model.task, GenerationTask):
            self._continue(waiting, max_requests)
            return
        limits = self._headroom.limits(self._model.engine.limits)
        chosen = choose(waiting, limits, self._turn, max_requests)
        # Who is in no lane of bulk work waits for one pass of it, and no more.
        self._turn = 0 if chosen and chosen[0].request.bulk else self._turn + 1
        if chosen:
            self._run(chosen)

    def _continue(self, waiting: Sequence[Job], max_requests: int) -> None:
        if self._continuations is None:
            self._continuations = Continuations(self._model)
        for job, made in self._continuations.step(waiting, max_requests):
            self._settle(job, made)
        if phases := self._continuations.phases(self._reading):
            self._reading = 0.0
            self._phases.append(phases)

    def _settle(self, job: Job, made: Made) -> None:
        part = job.request.settle(job, made)
        answer = None if part is None else self._finish(part, made)
        if part is not None and answer is not None:
            job.request.answer(part, answer)

    def _run(self, jobs: Sequence[Job]) -> None:
        """Run the model over these jobs and settle each."""
        started, padding = time.monotonic(), self._model.engine.padding
        made = self._compute(jobs)
        computed = time.monotonic()
        for job, one in zip(jobs, made, strict=True):
            self._settle(job, one)
        tokens = sum(job.tokens for job in jobs)
        reading, self._reading = self._reading, 0.0
        phases = Phases(
            reading,
            computed - started,
            time.monotonic() - computed,
            tokens,
            self._model.engine.padding - padding,
        )
        self._phases.append(phases)

    def result(self, request: Request, context: HandlerContext) -> object:
        """A finished request's result, with the headers that its answer gets."""
        if request.reply is not None and (request.reply.begun or request.error is None):
            return self._streamed(request, request.reply, context)
        if request.error is not None:
            return request.error
        value = request.assemble(self._model.task)
        if request.options.parameters.details:
            told: list[JsonValue] = [msgspec.structs.asdict(each) for each in request.usage()]
            value = {"outputs": value, "usage": told if request.inputs.many else told[0]}
        request.set_headers(context)
        # Of numbers, lines and spaces would be most of an answer, and writing them most of the work.
        answer = msgspec.json.encode(value) if self._model.task.compact else value
        content_type = PLAIN_TEXT if isinstance(answer, str) else "application/json"
        context.set_response_content_type(request.index, content_type)
        return answer

    @staticmethod
    def _streamed(request: Request, reply: Reply, context: HandlerContext) -> bytes:
        """The end of a streamed answer."""
        request.set_headers(context)
        context.set_response_content_type(request.index, reply.content_type)
        if request.error is not None:
            return reply.failure(request.error)
        assert request.last is not None, "a stream without an error has an end"
        return reply.part(request.last)

    def _parse(self, index: int, row: object, context: HandlerContext) -> Request | PredictionError:
        try:
            asked = read_shape(context.get_request_header(index, OUTPUT_HEADER))
            value = read_row(index, row, context)
            lane = read_lane(context.get_request_header(index, LANE_HEADER))
            if context.get_request_header(index, "explain") == "True":
                read = read_explanation(self._model.task, value)
                shape = self._shape(asked, read.inputs)
                return Explanation(index, read, shape, self._model, MAX_REQUEST_TOKENS)
            inputs = self._model.task.parse(value)
            shape = self._shape(asked, inputs)
        except PredictionError as error:
            return with_form_hint(error) if is_form(row) else error
        except Exception as error:  # noqa: BLE001 - as in run_isolated
            return hidden_error(error, "The input could not be read")
        request = Request(index, inputs, inputs.options(shape))
        request.bulk = None if lane is None else lane == "bulk"
        if isinstance(self._model.task, GenerationTask):
            events = wants_events(context.get_request_header(index, "accept"))
            single = len(inputs.entries) == 1
            parameters: Any = inputs.parameters
            if parameters.stream or (events and single):
                request.reply = Reply(events=events)
        return request

    def _shape(self, asked: OutputShape | None, inputs: Inputs) -> OutputShape:
        # The pipelines' form is not one that TorchServe's clients send.
        default = "full" if inputs.pipeline else self.default_output
        return asked or self._model.settings.output or default

    def _tokenise_isolated(self, requests: Sequence[Request]) -> None:
        """Plan all requests; one that cannot be prepared has an error of its own."""
        try:
            self._tokenise(requests)
        except BaseException as error:  # noqa: BLE001 - a panic of the tokenizer's is no Exception
            if len(requests) == 1:
                requests[0].error = hidden_error(error, "The input could not be prepared")
                return
            for request in requests:
                self._tokenise_isolated([request])

    def _tokenise(self, requests: Sequence[Request]) -> None:
        """Plan each request's jobs from its entries' rows; all rows are tokenised at once."""
        task = self._model.task
        planned: list[tuple[Request, list[Sequence[Row]]]] = []
        rows: list[Row] = []
        rules: list[WindowRule] = []
        for request in requests:
            inputs = request.inputs
            try:
                of_entries = [
                    rows_of(self._model, each, inputs.parameters) for each in inputs.entries
                ]
            except PredictionError as error:
                request.error = error
                continue
            count = sum(map(len, of_entries))
            if count > MAX_ROWS:
                request.error = task.invalid(
                    f"the request makes {count} rows for the model; at most {MAX_ROWS} are allowed"
                )
                continue
            rule = task.window_rule(inputs.parameters)
            chars = sum(self._model.reader.characters(row, rule) for of in of_entries for row in of)
            if chars > MAX_REQUEST_CHARS:
                request.error = task.invalid(
                    f"the request makes {count} rows of {chars} characters in all; at most"
                    f" {MAX_REQUEST_CHARS} are read"
                )
                continue
            planned.append((request, of_entries))
            rows += [row for each in of_entries for row in each]
            rules += [rule] * count
        readings = iter(self._model.reader.encode(rows, rules) if rows else ())
        for request, of_entries in planned:
            self._plan(request, of_entries, [[next(readings) for _ in each] for each in of_entries])

    def _plan(
        self,
        request: Request,
        rows: list[Sequence[Row]],
        readings: Sequence[Sequence[Reading | PredictionError]],
    ) -> None:
        """A request's jobs; its first error, or what it costs too much, is its only answer."""
        parts: list[Part] = []
        for entry, of_entry, read in zip(request.inputs.entries, rows, readings, strict=True):
            kept: list[Reading] = []
            for each in read:
                if isinstance(each, PredictionError):
                    request.error = each
                    return
                if not len(each.windows[0]):
                    request.error = self._model.task.invalid("the text has no tokens")
                    return
                kept.append(with_wanted(self._model.task, each))
            parts.append(request.part(entry, of_entry, kept))
        jobs = [job for part in parts for of_row in part.jobs for job in of_row]
        try:
            cost = sum(map(self._cost, jobs))
        except PredictionError as error:
            request.error = error
            return
        if len(jobs) > 1 and cost > MAX_REQUEST_TOKENS:
            request.error = PredictionError(
                f"The request of {len(parts)} entries costs {cost} tokens, read and generated; one"
                f" may cost at most {MAX_REQUEST_TOKENS}. Send smaller lists or shorter texts.",
                ErrorKind.INVALID_INPUT,
            )
            return
        request.plan(parts)
        if request.bulk is None:
            request.bulk = len(jobs) > BULK_ENTRIES

    def _cost(self, job: Job) -> int:
        """The most tokens that the model may read and generate for one job."""
        task = self._model.task
        read = len(job.encoding)
        if isinstance(task, GenerationTask):
            settings = generation_settings(self._model, job.options, read)
            return read + settings.max_new_tokens * (settings.num_return_sequences or 1)
        return read

    def _compute(self, jobs: Sequence[Job]) -> Sequence[Made]:
        """Run the model over all jobs."""
        if isinstance(jobs[0], GradientJob):
            return [jobs[0].run()]
        return run_distinct(lambda part: self._headroom.run(self._forward, part, _cost_of), jobs)

    def _forward(self, jobs: Sequence[Job]) -> list[Outputs]:
        return self._model.engine.forward([job.sequence for job in jobs])

    def _finish(self, part: Part, made: Made) -> Answer | PredictionError | None:
        """A complete entry's answer, from what the model made of its last job; None: it has new ones."""
        task = self._model.task
        if isinstance(task, GenerationTask):
            continued = cast("list[Continuation]", made)
            return guarded(lambda: generated_answer(task, part, continued))
        assert isinstance(task, ForwardTask)
        if isinstance(part, ExplainedPart):
            return guarded(part.advance)
        return guarded(lambda: postprocess(task, part))


def _cost_of(job: Job) -> int:
    return job.tokens


def _gpu_index(value: object) -> int | None:
    """TorchServe's `gpu_id`: an index, or None for the CPU."""
    return int(value) if isinstance(value, int | str) and str(value).isdigit() else None
