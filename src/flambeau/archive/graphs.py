"""Exported forms of a model, for ONNX Runtime and OpenVINO: their names and where they lie.

The names are this project's own and Optimum's; a form lies at the top of the model's folder or in
a folder `onnx` or `openvino` of it, as on the hub.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from flambeau.types import Precision

GraphEngine = Literal["onnx", "openvino"]

GRAPH_SUFFIXES: Mapping[str, GraphEngine] = {".onnx": "onnx", ".xml": "openvino"}

GRAPH_FOLDERS = ("", "onnx", "openvino")
_NAMES: Mapping[GraphEngine, Mapping[Precision, tuple[str, ...]]] = {
    "onnx": {
        "fp32": ("model.onnx",),
        "fp16": ("model_fp16.onnx",),
        "int8": ("model_int8.onnx", "model_quantized.onnx"),
    },
    # OpenVINO computes a float32 graph in any precision that the CPU has, and reads ONNX files.
    "openvino": {
        "fp32": ("openvino_model.xml", "model.onnx"),
        "bf16": ("openvino_model.xml", "model.onnx"),
        "fp16": ("openvino_model.xml", "model.onnx"),
        "int8": ("openvino_model_int8.xml",),
    },
}
"""By engine and precision, in the order of preference; the first is what an export writes."""


class Form(msgspec.Struct, frozen=True):
    """One exported form of a model: the engine that runs it, and in which precision."""

    engine: GraphEngine
    precision: Precision

    @property
    def names(self) -> tuple[str, ...]:
        """What its file may be called; none for a form that there is not."""
        return _NAMES[self.engine].get(self.precision, ())


def forms_of(engine: GraphEngine) -> list[Precision]:
    """The precisions in which an engine can run a graph."""
    return list(_NAMES[engine])


def find_graph(folder: Path, form: Form) -> Path | None:
    """The file of a form in a model's folder, or None."""
    found = (folder / below / name for name in form.names for below in GRAPH_FOLDERS)
    return next((path for path in found if path.is_file()), None)


def precision_of(graph: Path) -> Precision:
    """The precision that a file's name stands for; fp32 where it has another name."""
    stem = graph.stem
    kinds: Mapping[str, Precision] = {"int8": "int8", "quantized": "int8", "fp16": "fp16"}
    return kinds.get(stem.rpartition("_")[2], "fp32")


def any_graph(folder: Path) -> Path | None:
    """A graph in a model's folder, in float32 if there is one."""
    forms = [Form(engine, kind) for kind in ("fp32", "int8") for engine in _NAMES]
    return next((file for form in forms if (file := find_graph(folder, form))), None)


def graph_files(graph: Path) -> list[Path]:
    """A graph's file and those that it cannot be read without: its weights, if they lie beside it."""
    beside = [graph.with_suffix(".bin")] if graph.suffix == ".xml" else []
    beside += [graph.with_name(f"{graph.name}{suffix}") for suffix in ("_data", ".data")]
    return [graph, *(path for path in beside if path.is_file())]
