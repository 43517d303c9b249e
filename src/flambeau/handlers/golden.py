"""Asks a loaded model what its archive's golden outputs answer, through the handler's whole path."""

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from flambeau import tasks
from flambeau.archive.golden import Golden, read_golden
from flambeau.archive.verdict import versions
from flambeau.errors import ArchiveError, LoadError, PredictionError
from flambeau.handlers.golden_difference import Tolerance, difference
from flambeau.handlers.settings import GoldenSettings, parse_settings
from flambeau.tasks.base import GenerationTask
from flambeau.types import Chunk, Field, InferenceRequest, JsonValue

if TYPE_CHECKING:
    from flambeau.handlers.runner import Runner

logger = logging.getLogger(__name__)

TOLERANCES: Mapping[str, float] = {"fp32": 1e-4, "bf16": 2e-2, "fp16": 2e-2, "int8": 5e-2}
"""By the precision that a model computes in; what users' own handlers compute in is not known."""

_FIX = (
    "If the model was meant to change, pack it again with --golden; in model-config.yaml, handler:"
    " golden: tolerance: allows more, and golden: off checks nothing."
)


def check_golden(runner: "Runner", model_dir: Path, config: Mapping[str, object]) -> str:
    """Compare what a model answers with its golden outputs; returns what to tell, "" without any.

    `config` is model-config.yaml. Raises `LoadError` that names the sample and where the
    answers differ, and `ConfigError` for wrong settings.
    """
    golden = _read(model_dir)
    if golden is None:
        return ""
    settings = golden_settings(config)
    if not settings.check:
        logger.warning("Golden outputs are not checked: golden: off in model-config.yaml.")
        return "not checked (golden: off)"
    started = time.monotonic()
    tolerance = tolerance_of(runner.info, settings.tolerance)
    for number, sample in enumerate(golden.samples, 1):
        told = compare(ask(runner, sample.input), sample.output, tolerance)
        if told is not None:
            raise LoadError(
                f"For golden sample {number} of {len(golden.samples)} the model {told}"
                f" {_circumstances(runner.info, tolerance, golden)}. {_FIX}"
            )
    count = len(golden.samples)
    logger.info("%d golden outputs agree (%.1f s).", count, time.monotonic() - started)
    return f"{count} agree"


def ask(runner: "Runner", value: JsonValue) -> JsonValue | PredictionError:
    """What a model answers to a body of JSON, as JSON or as text."""
    body = Field("body", "application/json", json.dumps(value).encode())
    chunks: list[bytes] = []
    content_type = ""
    error: PredictionError | None = None

    def emit(_index: int, result: Chunk | PredictionError) -> None:
        nonlocal content_type, error
        if isinstance(result, PredictionError):
            error = result
            return
        chunks.append(result.body)
        content_type = content_type or result.content_type

    runner.run([InferenceRequest("golden", {}, [body])], emit)
    runner.measured()  # no client's: not to be in any metric
    runner.context.request_ids = runner.context.request_processor = None
    if error is not None:
        return error
    text = b"".join(chunks)
    if content_type.partition(";")[0].strip() == "application/json":
        answer: JsonValue = json.loads(text)
        return answer
    return text.decode("utf-8", "backslashreplace")


def compare(
    found: JsonValue | PredictionError, expected: JsonValue, tolerance: Tolerance
) -> str | None:
    """How an answer differs, in words that follow "it"; None if it does not."""
    if isinstance(found, PredictionError):
        return f"gave no answer: {found.message}"
    return difference(expected, found, tolerance)


def tolerance_of(info: Mapping[str, str], chosen: float | None = None) -> Tolerance:
    """How near answers must be to those that the model gave in fp32, by what serves it."""
    precision = info.get("precision", "fp32")
    number = chosen or TOLERANCES.get(precision, TOLERANCES["fp32"])
    task = info.get("task")
    generates = task is not None and issubclass(tasks.load(task), GenerationTask)
    if generates and precision != "fp32":
        return Tolerance(number, whole=None, exact_texts=False)
    return Tolerance(number)


def _read(model_dir: Path) -> Golden | None:
    try:
        return read_golden(model_dir)
    except ArchiveError as error:
        raise LoadError(error.message) from error


def golden_settings(config: Mapping[str, object]) -> GoldenSettings:
    """What model-config.yaml says; of a user's own handler, too, whose other settings are its own.

    Raises `ConfigError`.
    """
    section = config.get("handler")
    value = section.get("golden") if isinstance(section, Mapping) else None
    return parse_settings({"golden": value}, {}).golden


def _circumstances(info: Mapping[str, str], tolerance: Tolerance, golden: Golden) -> str:
    """What computed, and what is not as it was when the answers were given."""
    told = [f"tolerance {tolerance.number:g}"]
    told += [f"{name} {info[name]}" for name in ("engine", "precision", "device") if name in info]
    here = versions()
    told += [
        f"packed with {name} {version} and not {here[name]}"
        for name, version in golden.versions.items()
        if name in here and here[name] != version
    ]
    return f"({', '.join(told)})"
