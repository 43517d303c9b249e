"""Loads one model's handler in a worker and runs batches through it."""

import asyncio
import contextlib
import copy
import inspect
import logging
import os
import sys
import time
import uuid
from collections.abc import Awaitable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from flambeau.archive.golden import GOLDEN_PATH
from flambeau.archive.manifest import read_manifest_document
from flambeau.archive.yaml_config import read_yaml
from flambeau.errors import ArchiveError, LoadError, first_line
from flambeau.handlers import removed_calls
from flambeau.handlers.answers import Abandoned, Answers, Emit
from flambeau.handlers.choice import Choice, NotShareableError, choose
from flambeau.handlers.entry import (
    Entry,
    instance_entry,
    load_entry,
    parse_handler,
    prepare_import_path,
    wrap_in_envelope,
)
from flambeau.handlers.failures import (
    batch_failure,
    breaks_device,
    leaves_no_memory,
    load_failure,
)
from flambeau.handlers.results import encode_items
from flambeau.handlers.rows import to_row
from flambeau.handlers.ts import __version__ as ts_version
from flambeau.handlers.ts.alias import install_ts
from flambeau.handlers.ts.context import Context
from flambeau.handlers.ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from flambeau.handlers.ts.metrics.metric_type_enum import MetricTypes
from flambeau.handlers.ts.service import PREDICTION_METRIC, feed_metrics_to
from flambeau.ipc.messages import Load, Measured
from flambeau.types import InferenceRequest, MetricSample

if TYPE_CHECKING:
    from flambeau.handlers.native_runs import NativeRuns

__all__ = ["NotShareableError", "Runner"]

_logger = logging.getLogger(__name__)


class Runner:
    """A model's handler, loaded.

    `info` says how the model is served; `default_batch_size` is what a native handler would like
    where nobody set a batch size, None for users' own; `context` is the handler's, `decode` whether
    bodies are decoded for it. `unusable` is set once a CUDA error or a leak has spoiled this process.
    """

    def __init__(self, entry: Entry, context: Context, load: Load, mode: str) -> None:
        self.context = context
        self.unusable = False
        self.info = {"handler": mode}
        self.default_batch_size: int | None = None
        self._native: Any = None
        if _is_native(entry.instance):
            self.info = {"handler": mode, **entry.instance.info()}
            self.default_batch_size = entry.instance.default_batch_size
            self._native = entry.instance
        self._call = entry.call
        self.decode = load.decode_input
        self._continuous = load.continuous
        self._max_requests = load.max_requests or self.default_batch_size or 0

    @classmethod
    def load(cls, load: Load, *, to_fork: bool = False) -> Self:
        """Find and initialise the handler of an unpacked archive.

        Changes this process: the archive becomes the working directory and comes first on the
        import path, and TorchServe's interface becomes importable as `ts`. Raises LoadError with
        one line that holds the real cause; with `to_fork`, NotShareableError where the process that
        calls could not be forked afterwards: for users' handlers, before anything of them runs.
        """
        model_dir = Path(load.model_dir).resolve()
        try:
            return cls._load(load, model_dir, to_fork=to_fork)
        except NotShareableError:
            raise
        except BaseException as error:
            if not isinstance(error, LoadError):
                _logger.exception("The model %s failed to load.", load.name)
            raise load_failure(error, model_dir) from error

    @classmethod
    def _load(cls, load: Load, model_dir: Path, *, to_fork: bool) -> Self:
        manifest: dict[str, Any] | None = read_manifest_document(model_dir)
        config = _read_model_config(model_dir, manifest)
        metrics = MetricsCacheYamlImpl(model_name=load.name)
        metrics.set_request_ids(str(uuid.uuid4()))
        for spec in load.metrics:
            kind = MetricTypes(spec.kind)
            metrics.add_metric_to_cache(spec.name, spec.unit, spec.dimensions, kind)
        feed_metrics_to(metrics)
        context = Context(
            load.name,
            str(model_dir),
            manifest,
            load.batch_size,
            load.gpu,
            ts_version,
            load.limit_max_image_pixels,
            metrics,
            config,
        )
        context.compute_threads = load.threads
        context.measured_engine = load.measured
        context.to_fork = to_fork
        context.header_key_sequence_id = load.sequence_headers[0]
        context.header_key_sequence_start = load.sequence_headers[1]
        context.header_key_sequence_end = load.sequence_headers[2]
        handler = load.handler or str((manifest or {}).get("model", {}).get("handler", ""))
        name = parse_handler(handler)
        os.chdir(model_dir)
        prepare_import_path(name, model_dir)
        install_ts()
        choice = choose(name, model_dir, config)
        if choice.native:
            entry = _native_entry(choice, context)
        elif to_fork:
            raise NotShareableError
        else:
            removed_calls.apply()
            entry = load_entry(handler, context)
        if inspect.iscoroutinefunction(entry.call) and not load.asynchronous:
            _logger.warning(
                "The handler is asynchronous: it needs asyncCommunication: true in the model's "
                "configuration."
            )
        runner = cls(entry, context, load, choice.told)
        runner._check_golden(model_dir, config, load)
        if load.service_envelope:
            runner._call = wrap_in_envelope(entry, load.service_envelope).call
        return runner

    def _check_golden(self, model_dir: Path, config: dict[str, Any], load: Load) -> None:
        """Ask what the archive's golden outputs answer, if it has any. Raises LoadError."""
        if not (model_dir / GOLDEN_PATH).exists():
            return
        if load.asynchronous or load.continuous:
            _logger.warning(
                "Golden outputs are not checked: the handler runs many batches at once."
            )
            return
        from flambeau.handlers.golden import check_golden  # most archives have none

        self.info["golden"] = check_golden(self, model_dir, config)

    def begin(self, threads: int) -> None:
        """Get ready to run in this process with so many compute threads; `load` may have been
        called in its parent, with one thread. Raises LoadError.
        """
        if self._native is None:
            return
        try:
            self._native.begin(threads)
        except Exception as error:
            _logger.exception("The model %s failed to begin.", self.context.model_name)
            raise load_failure(error, Path.cwd()) from error

    def run(self, items: list[InferenceRequest], emit: Emit) -> None:
        """Answer a batch: per row, any number of chunks and one last chunk, or one error.

        With continuous batching, a row that is not finished gets one chunk that is not its last; it
        comes again without its fields (contract.md section 5.12).

        Never raises because of the handler. What would end the process (`SystemExit`,
        `KeyboardInterrupt`) is the batch's error too: another worker would only meet it again.
        """
        answers = Answers(items, emit)
        context = self._prepare(self.context, items, answers)
        started = time.monotonic()
        try:
            rows = [to_row(item, self.decode) for item in items]
            result = self._call(rows, context)
            bodies = encode_items(result, len(items))
        except BaseException as error:  # noqa: BLE001  # whatever users' code does
            self.failed(error, answers, items)
        else:
            self.add_times(context, (time.monotonic() - started) * 1000)
            if self._continuous:
                with contextlib.suppress(Abandoned):  # the server asks for no further run
                    answers.advance(bodies, lambda index: _goes_on(context, index, result[index]))
            else:
                answers.finish(bodies)
        finally:
            context.chunk_sink = None

    @property
    def pooled(self) -> bool:
        """Whether batches run side by side, cut into micro-batches (`handlers.native_runs`)."""
        return self._native is not None and not self._continuous and self._answers_itself()

    def _answers_itself(self) -> bool:
        """Whether no subclass and no envelope stands between the rows and our handler."""
        own = sys.modules[_NATIVE].TransformersHandler.handle
        overridden = getattr(self._call, "__func__", None) is not own
        return not overridden and getattr(self._call, "__self__", None) is self._native

    def pool(self) -> "NativeRuns":
        """What runs the batches of a native handler side by side."""
        from flambeau.handlers.native_runs import NativeRuns  # users' handlers do without

        return NativeRuns(self._native, self, self._max_requests)

    def canary(self) -> str:
        """Run the native task's example; returns why that fails, else ""."""
        try:
            self._native.canary()
        except Exception as error:  # noqa: BLE001  # the server is told
            return f"{type(error).__name__}: {first_line(error)}"
        return ""

    def budget(self) -> int:
        """Tokens that a forward pass should have; 0 where that does not matter."""
        return self._native.budget() if self._native is not None else 0

    async def run_async(self, item: InferenceRequest, emit: Emit) -> None:
        """Answer one request with an asynchronous handler, beside others (section 5.13).

        The handler gets a context of its own. Raises `CancelledError` where the task is cancelled,
        and nothing else.
        """
        answers = Answers([item], emit)
        started = time.monotonic()
        try:
            context = self._prepare(_own_context(self.context), [item], answers)
            result = self._call([to_row(item, self.decode)], context)
            if isinstance(result, Awaitable):
                result = await result
            bodies = encode_items(result, 1)
        except BaseException as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            self.failed(error, answers, [item])
        else:
            self.add_times(context, (time.monotonic() - started) * 1000)
            answers.finish(bodies)

    @staticmethod
    def _prepare(context: Context, items: list[InferenceRequest], answers: Answers) -> Context:
        """Let the context speak of these requests."""
        context.request_ids = {index: item.id for index, item in enumerate(items)}
        context.request_processor = answers.processors
        context.chunk_sink = answers.send_intermediate
        context.metrics.set_request_ids(context.request_ids)
        return context

    def failed(self, error: BaseException, answers: Answers, items: list[InferenceRequest]) -> None:
        """Answer what is left of a batch with the error that ended it."""
        if isinstance(error, Abandoned):
            _logger.info("Every client of the batch has left: the handler was stopped.")
            return
        ids = ", ".join(item.id for item in items)  # clients have them as x-request-id
        _logger.warning("The handler failed on the requests %s.", ids, exc_info=error)
        self.unusable = self.unusable or breaks_device(error) or leaves_no_memory(error)
        answers.fail(batch_failure(error))

    def measured(self) -> Measured | None:
        """What the handler has reported since the last call, None for nothing."""
        phases = self._native.take_phases() if self._native is not None else []
        samples = [
            MetricSample(
                one.name,
                one.value,
                one.unit,
                one.metric_type.value,
                [*one.dimensions],
                one.request_id,
            )
            for one in self.context.metrics.drain()
        ]
        return Measured(samples, phases) if samples or phases else None

    def add_times(self, context: Context, milliseconds: float) -> None:
        """TorchServe's two model metrics: its `BaseHandler` reports `HandlerTime` itself."""
        metrics = context.metrics
        if self._native is not None:
            metrics.add_time("HandlerTime", round(milliseconds, 2))
        metrics.add_time(PREDICTION_METRIC, round(milliseconds, 2))


_NATIVE = "flambeau.handlers.native"


def _own_context(context: Context) -> Context:
    """A copy for one request, deep as in TorchServe; the metrics' collector stays shared.

    What cannot be copied deeply (locks, sockets, engines parked on the context) is shared too.
    """
    metrics = copy.copy(context.metrics)
    try:
        return copy.deepcopy(context, {id(context.metrics): metrics})
    except Exception:  # noqa: BLE001  # users park what they like
        shallow = copy.copy(context)
        shallow.metrics = metrics
        return shallow


def _goes_on(context: Context, index: int, item: object) -> bool:
    """Ask the handler's stopping criterion: False there means that the row comes again."""
    criteria = context.stopping_criteria
    return bool(criteria) and criteria[index](item) is False


def _native_entry(choice: Choice, context: Context) -> Entry:
    from flambeau.handlers.native import TransformersHandler

    return instance_entry(TransformersHandler(choice.output), context)


def _is_native(instance: Any) -> bool:
    """Whether a handler object is our Transformers handler, or a user's class derived from it."""
    native = sys.modules.get(_NATIVE)  # who derives from it has imported it
    return native is not None and isinstance(instance, native.TransformersHandler)


def _read_model_config(model_dir: Path, manifest: dict[str, Any] | None) -> dict[str, Any]:
    """The model's YAML configuration, {} without one; LoadError names the line that is wrong."""
    name = (manifest or {}).get("model", {}).get("configFile")
    if not name:
        return {}
    try:
        return read_yaml(model_dir / name)
    except ArchiveError as error:
        raise LoadError(f"The model's configuration {error.message}") from error
