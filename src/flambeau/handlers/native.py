"""The built-in Transformers handler: a task, a tokenizer and an engine behind `handle`.

It has the shape of any TorchServe handler. An item of the result that is a `PredictionError` is
that item's own error; its neighbours are answered.
"""

import logging
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
import numpy as np

from flambeau.engines.base import (
    Generated,
    GenerationSettings,
    Outputs,
    TokenSequence,
)
from flambeau.errors import ErrorKind, PredictionError
from flambeau.handlers.native_generation import generate, generation_settings
from flambeau.handlers.native_model import NativeModel, load_model
from flambeau.handlers.native_request import is_form, read_row, with_form_hint
from flambeau.tasks.base import (
    AnswerOptions,
    Continuation,
    Encoding,
    ForwardTask,
    GenerationTask,
    Inputs,
    TextInput,
)
from flambeau.types import JsonValue, OutputShape, Phases

logger = logging.getLogger(__name__)

OUTPUT_HEADER = "x-flambeau-output"
TOKENS_HEADER = "x-flambeau-tokens"
TRUNCATED_HEADER = "x-flambeau-truncated"

MAX_REQUEST_TOKENS = 65_536
"""What a list in one request may cost, in tokens read and generated: 128 texts of 512 tokens.

The answer to a list comes when its last entry is done, and its neighbours in the batch wait for it:
it has to fit into a response timeout (120 seconds by default). A model of BERT-base's size needs
about 11 TFLOP for as much (two per weight and token, 85 million weights).
"""

Item = TypeVar("Item")
Result = TypeVar("Result")


class HandlerContext(Protocol):
    """What the handler needs of TorchServe's context."""

    @property
    def system_properties(self) -> Mapping[str, object]:
        """`model_dir` and `gpu_id` count here."""

    @property
    def compute_threads(self) -> int:
        """The worker's share of the cores, 0 if nobody says."""

    @property
    def manifest(self) -> Mapping[str, object] | None:
        """The archive's MANIFEST.json."""

    @property
    def model_yaml_config(self) -> Mapping[str, object]:
        """The archive's model-config.yaml; {} where it has none."""

    def get_request_header(self, idx: int, key: str) -> object:
        """A header of item `idx`, its name in any case."""

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """Set a header of the answer to item `idx`."""

    def set_response_content_type(self, idx: int, value: str) -> None:
        """Set the content type of the answer to item `idx`."""


class _Request(msgspec.Struct, frozen=True):
    """One row of a batch, parsed."""

    inputs: Inputs
    options: AnswerOptions


class _Job(msgspec.Struct, frozen=True):
    """One entry of one request, tokenised."""

    entry: TextInput
    encoding: Encoding
    options: AnswerOptions

    @property
    def sequence(self) -> TokenSequence:
        return TokenSequence(self.encoding.ids, self.encoding.type_ids)


class _Answer(msgspec.Struct, frozen=True):
    """The answer for one entry, with its evidence."""

    value: JsonValue
    tokens: int
    truncated: bool


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

    def initialize(self, context: HandlerContext) -> None:
        """Load the archive's model and run its task's example once.

        Raises `ConfigError` for wrong settings and `LoadError` where the model does not load or
        does not run.
        """
        self._model = load_model(
            Path(str(context.system_properties["model_dir"])),
            context.manifest or {},
            context.model_yaml_config or {},
            gpu=_gpu_index(context.system_properties.get("gpu_id")),
            threads=context.compute_threads,
        )
        self.initialized = True
        logger.info("Serving: %s.", ", ".join(f"{key} {text}" for key, text in self.info().items()))

    def begin(self) -> None:
        """Get ready to answer in this process, whose compute threads are set by now."""
        self._model.engine.begin()

    def info(self) -> dict[str, str]:
        """How the model is served, for people."""
        return {
            "task": self._model.task.name,
            "engine": self._model.engine_name,
            "output": self._model.settings.output or self.default_output,
            "max_length": str(self._model.tokenizer.max_length),
            "device": self._model.engine.device,
        }

    def take_phases(self) -> list[Phases]:
        """Where the time of the batches since the last call went."""
        taken, self._phases = self._phases, []
        return taken

    def handle(self, data: Sequence[object], context: HandlerContext) -> list[object]:
        """Answer each row of a batch; a `PredictionError` stands for a row without an answer."""
        if context.get_request_header(0, "describe") == "True":
            return [dict(self.info())]  # such a request comes alone
        requests = [self._read_request(index, row, context) for index, row in enumerate(data)]
        answers = iter(
            self._answer([one for one in requests if not isinstance(one, PredictionError)])
        )
        return [
            request
            if isinstance(request, PredictionError)
            else _join_answers(index, request.inputs, next(answers), context)
            for index, request in enumerate(requests)
        ]

    def _read_request(
        self, index: int, row: object, context: HandlerContext
    ) -> _Request | PredictionError:
        if context.get_request_header(index, "explain") == "True":
            return _no_explanations()
        try:
            shape = self._read_shape(context.get_request_header(index, OUTPUT_HEADER))
            inputs = self._model.task.parse(read_row(index, row, context))
        except PredictionError as error:
            return with_form_hint(error) if is_form(row) else error
        return _Request(inputs, AnswerOptions(shape, inputs.parameters))

    def _read_shape(self, header: object) -> OutputShape:
        if not isinstance(header, str) or not header.strip():
            return self._model.settings.output or self.default_output
        match header.strip().lower():
            case "legacy":
                return "legacy"
            case "full":
                return "full"
            case _:
                pass
        raise PredictionError(
            f"The header {OUTPUT_HEADER} is {header!r}. Allowed: legacy, full.",
            ErrorKind.INVALID_INPUT,
        )

    def _answer(self, requests: Sequence[_Request]) -> list[list[_Answer] | PredictionError]:
        """Tokenise all entries at once, run them at once, and sort the answers by request."""
        started = time.monotonic()
        entries = [entry for request in requests for entry in request.inputs.entries]
        encodings = iter(self._model.tokenizer.encode(entries))
        planned = [
            self._plan(request, [next(encodings) for _ in request.inputs.entries])
            for request in requests
        ]
        jobs = [job for plan in planned if not isinstance(plan, PredictionError) for job in plan]
        tokenised, padding = time.monotonic(), self._model.engine.padding
        made = self._compute(jobs)
        computed = time.monotonic()
        done = [self._finish(job, one) for job, one in zip(jobs, made, strict=True)]
        if jobs:
            tokens = sum(len(job.encoding.ids) for job in jobs)
            tokens += sum(len(one.ids) for one in made if isinstance(one, Generated))
            phases = Phases(
                tokenised - started,
                computed - tokenised,
                time.monotonic() - computed,
                tokens,
                self._model.engine.padding - padding,
            )
            self._phases.append(phases)
        answers = iter(done)
        return [
            plan if isinstance(plan, PredictionError) else _unless_one_failed(answers, len(plan))
            for plan in planned
        ]

    def _plan(
        self, request: _Request, encodings: Sequence[Encoding | PredictionError]
    ) -> list[_Job] | PredictionError:
        """A request's jobs; its first error, or what a list costs too much, is its only answer."""
        jobs: list[_Job] = []
        for entry, encoding in zip(request.inputs.entries, encodings, strict=True):
            if isinstance(encoding, PredictionError):
                return encoding
            if not encoding.ids:
                return self._model.task.invalid("the text has no tokens")
            jobs.append(_Job(entry, encoding, request.options))
        cost = sum(map(self._cost, jobs))
        if len(jobs) > 1 and cost > MAX_REQUEST_TOKENS:
            return PredictionError(
                f"The list of {len(jobs)} entries costs {cost} tokens, read and generated; one"
                f" request may cost at most {MAX_REQUEST_TOKENS}. Send smaller lists.",
                ErrorKind.INVALID_INPUT,
            )
        return jobs

    def _cost(self, job: _Job) -> int:
        """The most tokens that the model may read and generate for one entry."""
        task = self._model.task
        read = len(job.encoding.ids)
        if isinstance(task, GenerationTask):
            return read + self._generation_settings(task, job).max_new_tokens
        return read

    def _compute(self, jobs: Sequence[_Job]) -> Sequence[Generated | Outputs | PredictionError]:
        """Run the model over all jobs."""
        task = self._model.task
        if isinstance(task, GenerationTask):
            return run_isolated(lambda part: self._generate(task, part), jobs)
        return run_isolated(
            lambda part: self._model.engine.forward([job.sequence for job in part]), jobs
        )

    def _finish(
        self, job: _Job, made: Generated | Outputs | PredictionError
    ) -> _Answer | PredictionError:
        """One job's answer from what the model made of it."""
        task = self._model.task
        if isinstance(made, PredictionError):
            return made
        if isinstance(made, Generated):
            assert isinstance(task, GenerationTask)
            return self._continue(task, job, made)
        assert isinstance(task, ForwardTask)
        return _postprocess(task, job, made)

    def _generate(self, task: GenerationTask, jobs: Sequence[_Job]) -> list[Generated]:
        return generate(
            self._model,
            [job.sequence for job in jobs],
            [self._generation_settings(task, job) for job in jobs],
            [job.options for job in jobs],
        )

    def _generation_settings(self, task: GenerationTask, job: _Job) -> GenerationSettings:
        return generation_settings(self._model, task, job.options, len(job.encoding.ids))

    def _continue(self, task: GenerationTask, job: _Job, generated: Generated) -> _Answer:
        prompt_tokens = len(job.encoding.ids)
        continuation = Continuation(
            text=self._model.tokenizer.decode_after(job.encoding.ids, generated.ids),
            prompt_tokens=prompt_tokens,
            generated_tokens=len(generated.ids),
            finish_reason=generated.finish_reason,
        )
        value = task.postprocess(continuation, job.entry, job.options)
        return _Answer(value, prompt_tokens + len(generated.ids), job.encoding.truncated)


def run_isolated(
    run: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item]
) -> list[Result | PredictionError]:
    """Run all items together; where that raises, halve until only the guilty ones fail."""
    if not items:
        return []
    try:
        return list(run(items))
    except Exception as error:  # noqa: BLE001 - whatever a framework raises becomes this item's error
        if len(items) == 1:
            return [_item_error(error)]
    middle = len(items) // 2
    return run_isolated(run, items[:middle]) + run_isolated(run, items[middle:])


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


def _postprocess(task: ForwardTask, job: _Job, outputs: Outputs) -> _Answer | PredictionError:
    try:
        if not all(np.isfinite(array).all() for array in outputs.values()):
            return PredictionError(
                "The model gave values that are no numbers (NaN or infinite) for this input."
                " Its weights or its precision are broken."
            )
        value = task.postprocess(outputs, job.encoding, job.entry, job.options)
    except Exception as error:  # noqa: BLE001 - as in run_isolated
        # The message may quote the text; where it was raised does not.
        where = "".join(traceback.format_tb(error.__traceback__))
        logger.error("%s made no answer: %s\n%s", task.name, type(error).__name__, where)  # noqa: TRY400 - see above
        return PredictionError(
            f"No answer could be made of the model's output ({type(error).__name__})."
        )
    return _Answer(value, len(job.encoding.ids), job.encoding.truncated)


def _unless_one_failed(
    answers: Iterator[_Answer | PredictionError], count: int
) -> list[_Answer] | PredictionError:
    """The next `count` answers, or the first error among them."""
    own = [next(answers) for _ in range(count)]
    done = [answer for answer in own if not isinstance(answer, PredictionError)]
    return done if len(done) == count else next(a for a in own if isinstance(a, PredictionError))


def _join_answers(
    index: int,
    inputs: Inputs,
    answers: list[_Answer] | PredictionError,
    context: HandlerContext,
) -> object:
    """One request's result from its entries' answers, with the headers that it gets."""
    if isinstance(answers, PredictionError):
        return answers
    value = [answer.value for answer in answers] if inputs.many else answers[0].value
    tokens = sum(answer.tokens for answer in answers)
    truncated = any(answer.truncated for answer in answers)
    context.set_response_header(index, TOKENS_HEADER, str(tokens))
    context.set_response_header(index, TRUNCATED_HEADER, "true" if truncated else "false")
    content_type = "text/plain; charset=utf-8" if isinstance(value, str) else "application/json"
    context.set_response_content_type(index, content_type)
    return value


def _no_explanations() -> PredictionError:
    return PredictionError(
        "Explanations are not supported by the native handler yet; handler_mode: as-is in the"
        " archive's configuration runs the archive's own handler, which may explain.",
        status=501,
    )


def _gpu_index(value: object) -> int | None:
    """TorchServe's `gpu_id`: an index, or None for the CPU."""
    return int(value) if isinstance(value, int | str) and str(value).isdigit() else None
