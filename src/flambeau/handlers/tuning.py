"""Measures the engines and precisions that a model can run in: speed, and nearness to fp32 torch.

All of them in one process and on the same texts, in turn and several times over, so that a busy
moment of the machine meets them all. What counts is CPU time: it hardly depends on who else runs.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec

from flambeau import engines
from flambeau.archive.graphs import GRAPH_SUFFIXES, Form, find_graph, forms_of
from flambeau.archive.verdict import (
    Candidate,
    Verdict,
    cpu_name,
    versions,
    weights_fingerprint,
)
from flambeau.engines.base import Engine, Outputs, TokenSequence
from flambeau.errors import ConfigError, LoadError, PredictionError
from flambeau.handlers.agreement import compare
from flambeau.handlers.golden_answers import disagreement
from flambeau.handlers.native_model import ModelParts
from flambeau.handlers.sample_texts import sample_entries
from flambeau.handlers.tune_request import TuneRequest
from flambeau.tasks.base import ForwardTask, Row
from flambeau.types import Precision

Report = Callable[[str], None]

SAMPLE_TEXTS = 240
"""Enough that one text with another label is not yet too many."""
TIMED_TEXTS = 96
MAX_TEXTS = 2_000
EXACT_DIFFERENCE = 1e-3
"""The most that a probability may differ in fp32, whatever was allowed for other precisions."""

_BATCH = 32
_ROUNDS = 3
_TORCH_PRECISIONS: tuple[Precision, ...] = ("fp32", "int8", "bf16")
_PACKAGES = {"torch": "torch", "onnx": "onnxruntime", "openvino": "openvino"}


class _Runner(msgspec.Struct):
    """An engine that was loaded, and its times so far: CPU and wall clock seconds per round."""

    name: str
    precision: Precision
    engine: Engine
    outputs: list[Outputs]
    cpu: list[float] = []
    wall: list[float] = []


def tune(request: TuneRequest, parts: ModelParts, report: Report) -> Verdict:
    """Measure everything that is installed and in the archive; `report` hears of each step.

    What would break the archive's golden outputs is not accepted. Raises `ConfigError` for texts
    that are none, and `LoadError` where nothing runs.
    """
    task = parts.task
    if not isinstance(task, ForwardTask) or task.reads != "text":
        raise ConfigError(f"Only torch runs {task.name} models: there is nothing to tune.")
    sequences = _sequences(request, parts)
    runners = list(_load_all(request, parts, sequences, report))
    if not runners:
        raise LoadError("No engine that is installed can run this model.")
    timed = sequences[:TIMED_TEXTS]
    for turn in range(_ROUNDS):
        report(f"Round {turn + 1} of {_ROUNDS}: {len(timed)} texts with each")
        for runner in runners[turn % len(runners) :] + runners[: turn % len(runners)]:
            _time(runner, timed)
    many_labels = parts.config.get("problem_type") == "multi_label_classification"
    reference = runners[0]
    candidates = []
    for runner in runners:
        broken = None
        if parts.settings.engine == "auto":  # else a verdict changes nothing
            kind = (runner.name, runner.precision)
            broken = disagreement(request.model_dir, kind, request.threads)
        if broken is not None:
            report(f"{runner.name} {runner.precision} is left out. {broken}")
        near = compare(task.name, reference.outputs, runner.outputs, many_labels=many_labels)
        exact = runner.precision == "fp32"
        candidates.append(
            Candidate(
                engine=runner.name,
                precision=runner.precision,
                cpu_ms=statistics.median(runner.cpu) * 1000 / len(timed),
                wall_ms=statistics.median(runner.wall) * 1000 / len(timed),
                labels=near.labels,
                difference=near.difference,
                cosine=near.cosine,
                accepted=broken is None
                and near.within(
                    request.agreement, EXACT_DIFFERENCE if exact else request.max_difference
                ),
            )
        )
    return Verdict(
        weights=weights_fingerprint(request.model_dir),
        versions=versions(),
        cpu=cpu_name(),
        threads=request.threads,
        texts=len(sequences),
        candidates=candidates,
    )


def _sequences(request: TuneRequest, parts: ModelParts) -> list[TokenSequence]:
    readings = parts.reader.encode(_rows(request, parts))
    windows = [one.windows[0] for one in readings if not isinstance(one, PredictionError)]
    return [TokenSequence(one.ids, one.type_ids) for one in windows if one.ids]


def _rows(request: TuneRequest, parts: ModelParts) -> Sequence[Row]:
    if request.texts is None:
        return sample_entries(parts.task.name, SAMPLE_TEXTS)
    try:
        lines = request.texts.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{request.texts} cannot be read: {error}") from error
    assert isinstance(parts.task, ForwardTask)
    rows: list[Row] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            inputs = parts.task.parse(line)
        except PredictionError as error:
            raise ConfigError(f"{request.texts}, line {number}: {error.message}") from error
        for entry in inputs.entries:
            rows += parts.task.rows(entry, inputs.parameters)
        if len(rows) >= MAX_TEXTS:
            break
    if not rows:
        raise ConfigError(f"{request.texts} has no texts: write one input per line.")
    return rows[:MAX_TEXTS]


def _load_all(
    request: TuneRequest, parts: ModelParts, sequences: list[TokenSequence], report: Report
) -> Iterator[_Runner]:
    """Load each engine in each precision, the reference first, and run all texts once."""
    for name, precision in _wanted(request, parts, report):
        # With a precision, a graph is looked for by its name.
        source = msgspec.structs.replace(parts.source, precision=precision)
        try:
            engine = engines.load(name)(source)
            engine.begin(request.threads)
            outputs = _run(engine, sequences)
        except LoadError as error:
            report(f"{name} {precision}: {error.message}")
            continue
        if engine.precision == precision:
            report(f"{name} {precision}: loaded")
            yield _Runner(name, precision, engine, outputs)


def _wanted(
    request: TuneRequest, parts: ModelParts, report: Report
) -> Iterator[tuple[str, Precision]]:
    """Engine and precision of all that are installed and have their files in the archive."""
    allowed = None if request.precision == "auto" else {"fp32", request.precision}
    possible: dict[str, list[Precision]] = {"torch": list(_TORCH_PRECISIONS)}
    possible |= {name: forms_of(name) for name in GRAPH_SUFFIXES.values()}
    for name, precisions in possible.items():
        if importlib.util.find_spec(_PACKAGES[name]) is None:
            report(f"{name}: not installed (pip install 'flambeau[{name}]')")
            continue
        if name == "torch":
            found = precisions if _has_weights(parts) else []
        else:
            forms = [Form(GRAPH_SUFFIXES[_suffix(name)], each) for each in precisions]
            found = [form.precision for form in forms if find_graph(request.model_dir, form)]
        if not found:
            advice = "" if name == "torch" else f" (flambeau pack --export {name} adds it)"
            report(f"{name}: the archive does not have its form{advice}")
        for precision in found:
            if allowed is None or precision in allowed:
                yield name, precision


def _suffix(engine: str) -> str:
    return next(suffix for suffix, name in GRAPH_SUFFIXES.items() if name == engine)


def _has_weights(parts: ModelParts) -> bool:
    """Whether the archive has weights for torch, and not a traced model or a graph alone."""
    return parts.engine == "torch"


def _run(engine: Engine, sequences: Sequence[TokenSequence]) -> list[Outputs]:
    outputs: list[Outputs] = []
    for start in range(0, len(sequences), _BATCH):
        outputs += engine.forward(sequences[start : start + _BATCH])
    return outputs


def _time(runner: _Runner, sequences: Sequence[TokenSequence]) -> None:
    cpu, wall = time.process_time(), time.perf_counter()
    _run(runner.engine, sequences)
    runner.cpu.append(time.process_time() - cpu)
    runner.wall.append(time.perf_counter() - wall)
