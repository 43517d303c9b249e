"""Loads one model's handler in a worker and runs batches through it."""

import json
import logging
import os
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from flambeau.archive.yaml_config import read_yaml
from flambeau.errors import ArchiveError, LoadError, PredictionError
from flambeau.handlers import removed_calls
from flambeau.handlers.choice import Choice, choose
from flambeau.handlers.entry import (
    Entry,
    instance_entry,
    load_entry,
    parse_handler,
    prepare_import_path,
    wrap_in_envelope,
)
from flambeau.handlers.failures import batch_failure, load_failure
from flambeau.handlers.results import Body, clean_text, encode_item, encode_items
from flambeau.handlers.rows import to_row
from flambeau.handlers.ts import __version__ as ts_version
from flambeau.handlers.ts.alias import install_ts
from flambeau.handlers.ts.context import Context, RequestProcessor
from flambeau.handlers.ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from flambeau.handlers.ts.metrics.metric_type_enum import MetricTypes
from flambeau.handlers.ts.service import PREDICTION_METRIC, feed_metrics_to
from flambeau.ipc.messages import Load, Measured
from flambeau.types import Chunk, InferenceRequest, MetricSample

__all__ = ["Emit", "Runner"]

_logger = logging.getLogger(__name__)

Emit = Callable[[int, Chunk | PredictionError], None]
"""Takes one chunk of row `index`'s answer, or the row's error."""


class Runner:
    """A model's handler, loaded.

    `info` says how the model is served; `default_batch_size` is what a native handler would like
    where nobody set a batch size, None for users' own; `context` is the handler's.
    """

    def __init__(self, entry: Entry, context: Context, decode: bool, mode: str) -> None:
        self.context = context
        self.info = {"handler": mode}
        self.default_batch_size: int | None = None
        self._native: Any = None
        if _is_native(entry.instance):
            self.info = {"handler": mode, **entry.instance.info()}
            self.default_batch_size = entry.instance.default_batch_size
            self._native = entry.instance
        self._call = entry.call
        self._decode = decode

    @classmethod
    def load(cls, load: Load) -> Self:
        """Find and initialise the handler of an unpacked archive.

        Changes this process: the archive becomes the working directory and comes first on the
        import path, and TorchServe's interface becomes importable as `ts`. Raises LoadError with
        one line that holds the real cause.
        """
        model_dir = Path(load.model_dir).resolve()
        try:
            return cls._load(load, model_dir)
        except BaseException as error:
            if not isinstance(error, LoadError):
                _logger.exception("The model %s failed to load.", load.name)
            raise load_failure(error, model_dir) from error

    @classmethod
    def _load(cls, load: Load, model_dir: Path) -> Self:
        manifest = _read_manifest(model_dir)
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
        handler = load.handler or str((manifest or {}).get("model", {}).get("handler", ""))
        name = parse_handler(handler)
        os.chdir(model_dir)
        prepare_import_path(name, model_dir)
        install_ts()
        choice = choose(name, model_dir, config)
        if choice.native:
            entry = _native_entry(choice, context)
        else:
            removed_calls.apply()
            entry = load_entry(handler, context)
        if load.service_envelope:
            entry = wrap_in_envelope(entry, load.service_envelope)
        return cls(entry, context, load.decode_input, choice.told)

    def run(self, items: list[InferenceRequest], emit: Emit) -> None:
        """Answer a batch: per row, any number of chunks and one last chunk, or one error.

        Never raises because of the handler. What would end the process (`SystemExit`,
        `KeyboardInterrupt`) is the batch's error too: another worker would only meet it again.
        """
        answers = _Answers(items, emit)
        context = self.context
        context.request_ids = {index: item.id for index, item in enumerate(items)}
        context.request_processor = answers.processors
        context.chunk_sink = answers.send_intermediate
        context.metrics.set_request_ids(context.request_ids)
        started = time.monotonic()
        try:
            rows = [to_row(item, self._decode) for item in items]
            bodies = encode_items(self._call(rows, context), len(items))
        except BaseException as error:
            _logger.warning("The handler failed on a batch of %d.", len(items), exc_info=error)
            answers.fail(batch_failure(error))
        else:
            self._add_times((time.monotonic() - started) * 1000)
            answers.finish(bodies)
        finally:
            context.chunk_sink = None

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

    def _add_times(self, milliseconds: float) -> None:
        """TorchServe's two model metrics: its `BaseHandler` reports `HandlerTime` itself."""
        metrics = self.context.metrics
        if self._native is not None:
            metrics.add_time("HandlerTime", round(milliseconds, 2))
        metrics.add_time(PREDICTION_METRIC, round(milliseconds, 2))


class _Answers:
    """The answers to one batch: what each row was sent, and what it may still get."""

    def __init__(self, items: list[InferenceRequest], emit: Emit) -> None:
        self.processors = [RequestProcessor(_visible_headers(item)) for item in items]
        self._emit = emit
        self._index_of = {item.id: index for index, item in enumerate(items)}
        self._open = set(range(len(items)))

    def send_intermediate(
        self, ret: Sequence[object], request_ids: Mapping[int, str] | None
    ) -> None:
        """One more chunk for each row that `ret` has an entry for."""
        ids = request_ids or dict(enumerate(self._index_of))
        if len(ret) != len(ids):
            raise ValueError(f"{len(ids)} chunks are due, one per request, not {len(ret)}")
        for position, item in enumerate(ret):
            self._send(self._index_of[ids[position]], encode_item(item), last=False)

    def finish(self, bodies: list[Body | PredictionError]) -> None:
        """The last chunk, or the error, of every row."""
        for index, body in enumerate(bodies):
            self._send(index, body, last=True)

    def fail(self, error: PredictionError) -> None:
        """The same error for every row that is not finished."""
        for index in sorted(self._open):
            self._send(index, error, last=True)

    def _send(self, index: int, body: Body | PredictionError, *, last: bool) -> None:
        if index not in self._open:
            return  # it has failed before
        if last or isinstance(body, PredictionError):
            self._open.remove(index)
        if isinstance(body, PredictionError):
            self._emit(index, body)
        else:
            self._emit(index, _chunk(body, self.processors[index], last))


def _chunk(body: Body, processor: RequestProcessor, last: bool) -> Chunk:
    """Bytes with the status, the headers and the content type that the handler chose."""
    response_headers = processor.get_response_headers()
    headers = {clean_text(key): clean_text(value) for key, value in response_headers.items()}
    content_type = body.content_type
    for key in [key for key in headers if key.lower() == "content-type"]:
        content_type = headers.pop(key)
    return Chunk(
        body.data,
        last,
        status=processor.get_response_status_code() if processor.status_was_set else 0,
        reason=clean_text(processor.get_response_status_phrase() or ""),
        content_type=content_type,
        headers=headers,
    )


def _visible_headers(item: InferenceRequest) -> dict[str, Any]:
    """Each field's content type under its name, and over that the request's headers (5.2)."""
    fields = {field.name: {"content-type": field.content_type} for field in item.fields}
    return {**fields, **item.headers}


def _native_entry(choice: Choice, context: Context) -> Entry:
    from flambeau.handlers.native import TransformersHandler

    return instance_entry(TransformersHandler(choice.output), context)


def _is_native(instance: Any) -> bool:
    """Whether a handler object is our Transformers handler, or a user's class derived from it."""
    native = sys.modules.get("flambeau.handlers.native")  # who derives from it has imported it
    return native is not None and isinstance(instance, native.TransformersHandler)


def _read_manifest(model_dir: Path) -> dict[str, Any] | None:
    """The archive's manifest as it is, or None without one."""
    path = model_dir / "MAR-INF" / "MANIFEST.json"
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise LoadError(f"MAR-INF/MANIFEST.json is not valid JSON: {error}") from error
    if not isinstance(manifest, dict):
        raise LoadError("MAR-INF/MANIFEST.json must hold a JSON object.")
    return manifest


def _read_model_config(model_dir: Path, manifest: dict[str, Any] | None) -> dict[str, Any]:
    """The model's YAML configuration, {} without one; LoadError names the line that is wrong."""
    name = (manifest or {}).get("model", {}).get("configFile")
    if not name:
        return {}
    try:
        return read_yaml(model_dir / name)
    except ArchiveError as error:
        raise LoadError(f"The model's configuration {error.message}") from error
