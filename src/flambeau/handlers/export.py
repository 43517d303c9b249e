"""Exports a model's forms and proves that they answer as the model does.

Runs in a process of its own, `python -m flambeau.handlers.export`, because the commands' process
never imports a model framework.
"""

import importlib.util
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from flambeau import engines, tasks
from flambeau.archive.graphs import Form, graph_files
from flambeau.archive.hub import format_size
from flambeau.engines.base import ModelSource, Outputs, TokenSequence
from flambeau.errors import LoadError, PredictionError
from flambeau.handlers.agreement import compare
from flambeau.handlers.child import read_request, run_quietly, say
from flambeau.handlers.child_request import decode_request
from flambeau.handlers.export_request import ExportRequest
from flambeau.handlers.sample_texts import sample_entries
from flambeau.handlers.settings import HandlerSettings, read_json_object
from flambeau.handlers.tokenizer_files import load_tokenizer
from flambeau.tasks.base import ForwardTask

Report = Callable[[str], None]

TOLERANCE = 1e-4
"""How far a float32 graph's score may be from the model's: absolute, plus relative to its size."""
LEAST_AGREEMENT = 0.5
"""Below this share of equal labels, an int8 graph is broken and not merely coarse."""

_PACKAGES = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}
_SAMPLES = 24


class _Sample(msgspec.Struct, frozen=True):
    """Texts of all lengths, and what the model itself gives for each alone."""

    source: ModelSource
    sequences: list[TokenSequence]
    expected: list[Outputs]
    many_labels: bool


def export(request: ExportRequest, report: Report = lambda _: None) -> list[Path]:
    """Write each form of the request below its output folder, compared with the model.

    A float32 graph whose scores differ, for texts of any length alone or together, is an error
    (`LoadError`); for an int8 one the differences are told. Returns the graphs' files.
    """
    for form in request.forms:
        _check_packages(form)
    task_class = tasks.load(request.task)
    if not issubclass(task_class, ForwardTask) or task_class.reads != "text":
        raise LoadError(f"Models for {request.task} cannot be exported. Use engine: torch.")
    from flambeau.handlers import exporting
    from flambeau.handlers.pretrained import load_pretrained, quiet_libraries

    with quiet_libraries(), tempfile.TemporaryDirectory(dir=request.output) as scratch:
        pretrained = load_pretrained(request.folder, request.folder.name, request.task)
        if pretrained.new_parameters:
            raise LoadError(
                f"{request.folder.name} has no weights for {pretrained.new_parameters[0]}: it is"
                f" not fine-tuned for {request.task}."
            )
        sample = _sample(request, task_class, pretrained.model)
        report(f"Exporting {request.folder.name} for {request.task}")
        whole = Path(scratch) / "model.onnx"
        exporting.write_onnx(
            pretrained.model, task_class.outputs, per_token=sample.source.per_token, file=whole
        )
        if importlib.util.find_spec("onnxruntime") is not None:
            exporting.simplify_onnx(whole)
        made = []
        for form in request.forms:
            file = request.output / form.names[0]
            _write(form, whole, file)
            report(_checked(form, file, sample))
            made.append(file)
        return made


def _write(form: Form, whole: Path, file: Path) -> None:
    from flambeau.handlers import exporting

    if form == Form("onnx", "fp16"):
        raise LoadError("There is no export in fp16. Allowed for the engine onnx: fp32, int8.")
    int8 = form.precision == "int8"
    if form.engine == "openvino":
        exporting.write_openvino(whole, file, int8=int8)
    elif int8:
        exporting.quantise_onnx(whole, file)
    else:
        file.write_bytes(whole.read_bytes())


def _check_packages(form: Form) -> None:
    needed = _PACKAGES[form.engine]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise LoadError(
            f"Exporting for the engine {form.engine} needs {' and '.join(missing)}:"
            f" pip install 'flambeau[{form.engine}]'."
        )


def _sample(request: ExportRequest, task_class: type[ForwardTask], model: Any) -> _Sample:
    config = read_json_object(request.folder / "config.json")
    settings = HandlerSettings(task=request.task, max_length=request.max_length)
    tokenizer = load_tokenizer(request.folder, settings, config, task_class)
    readings = tokenizer.encode(sample_entries(request.task, _SAMPLES))
    windows = [one.windows[0] for one in readings if not isinstance(one, PredictionError)]
    sequences = [TokenSequence(one.ids, one.type_ids) for one in windows]
    if model.config.pad_token_id is None:
        # GPT-2's heads find the last real token by it and refuse batches without one.
        model.config.pad_token_id = tokenizer.pad_id
    source = ModelSource(
        model_dir=request.output,
        task=request.task,
        outputs=task_class.outputs,
        pad_id=tokenizer.pad_id,
        max_length=tokenizer.max_length,
    )
    expected = _alone(model, source.outputs, sequences)
    many_labels = config.get("problem_type") == "multi_label_classification"
    return _Sample(source, sequences, expected, many_labels)


def _alone(model: Any, names: Sequence[str], sequences: list[TokenSequence]) -> list[Outputs]:
    """The model's own outputs, one text at a time and without padding."""
    import torch

    from flambeau.handlers.exporting import input_names

    outputs: list[Outputs] = []
    typed = "token_type_ids" in input_names(model)
    for sequence in sequences:
        ids = torch.tensor([sequence.ids])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if typed and sequence.type_ids:
            inputs["token_type_ids"] = torch.tensor([sequence.type_ids])
        with torch.inference_mode():
            result = model(**inputs)
        outputs.append({name: result[name][0].float().numpy() for name in names})
    return outputs


def _checked(form: Form, file: Path, sample: _Sample) -> str:
    """Run a graph through its engine, all texts together; returns what to tell of it."""
    source = msgspec.structs.replace(sample.source, precision=form.precision)
    found = engines.load(form.engine)(source).forward(sample.sequences)
    for sequence, expected, outputs in zip(sample.sequences, sample.expected, found, strict=True):
        for name, scores in expected.items():
            if form.precision == "fp32" and not np.allclose(
                outputs[name], scores, rtol=TOLERANCE, atol=TOLERANCE
            ):
                gap = float(np.abs(outputs[name] - scores).max())
                raise LoadError(
                    f"The graph for the engine {form.engine} is not equal to the model: its {name}"
                    f" differ by {gap:.2g} for a text of {len(sequence)} tokens. Use engine: torch."
                )
    agreement = compare(sample.source.task, sample.expected, found, many_labels=sample.many_labels)
    if not agreement.labels >= LEAST_AGREEMENT:
        raise LoadError(
            f"The {form.precision} graph for the engine {form.engine} gives other answers than the"
            f" model for {1 - agreement.labels:.0%} of the built-in texts. Use fp32."
        )
    size = format_size(sum(each.stat().st_size for each in graph_files(file)))
    line = f"{file.name}: {size}, scores within {agreement.scores:.1g}"
    if form.precision != "fp32" and "last_hidden_state" in sample.source.outputs:
        line += f", cosines of vectors from {agreement.cosine:.3f} on"
    elif form.precision != "fp32":
        line += (
            f", probabilities within {agreement.difference:.2g}, {agreement.labels:.1%} of"
            f" {agreement.count} labels equal (built-in texts; flambeau tune takes yours)"
        )
    return line


def main(argv: list[str] | None = None) -> int:
    """The child process of `flambeau pack`; returns the exit code."""
    request = decode_request(read_request("export", argv), ExportRequest)
    return run_quietly(lambda: export(request, say))


if __name__ == "__main__":
    sys.exit(main())
