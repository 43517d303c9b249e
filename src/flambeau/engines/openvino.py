"""Runs an exported graph in OpenVINO, on a CPU. Imports neither torch nor transformers.

Graphs are this project's own (`flambeau pack --engine openvino`), Optimum's, or, where there is no
other, an ONNX file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flambeau.archive.graphs import Form, precision_of
from flambeau.engines.base import (
    CPU_LIMITS,
    ModelSource,
    Outputs,
    TokenSequence,
    count_padding,
    forward_in_groups,
    pick_device,
)
from flambeau.engines.generation import Session
from flambeau.engines.graph import Graph, open_form
from flambeau.errors import LoadError, first_line
from flambeau.types import Precision

try:
    import openvino
except ImportError as error:
    raise LoadError(
        f"The engine openvino needs OpenVINO ({first_line(error)}): pip install 'flambeau[openvino]'."
    ) from error

_core = openvino.Core()
"""One for the process, and for all its life.

With its first use of the CPU, a `Core` gives the thread a stack for signal handlers; when it goes,
it frees that one and puts back what it found. Of two that go in the order they came, the second puts
back a stack that is freed already: the next signal then kills the process by SIGSEGV, without a
traceback, or is handled in memory that belongs to others by now.
"""

_HINTS: Mapping[Precision, str] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
"""What everything but int8 products is computed in. OpenVINO itself would take bf16 where the CPU
has it, and change answers in the third digit without a word."""


class Engine:
    """Padded batches of rows of about one length."""

    def __init__(self, source: ModelSource) -> None:
        if source.generates:
            raise LoadError("The engine openvino does not generate text. Use engine: torch.")
        self._source = source
        self.device = pick_device(source.gpu, cuda_available=False)
        self.padding = 0
        file = open_form(source, Form("openvino", source.precision or "fp32"))
        self.precision: Precision = source.precision or precision_of(file)
        _check_precision(self.precision)
        try:
            self._model = _core.read_model(file)
        except Exception as error:
            raise LoadError(
                f"{file.name} cannot be loaded by OpenVINO: {first_line(error)}"
            ) from error
        self._graph = _describe(file, self._model)
        self._graph.check()
        self._places = self._graph.places(source)
        self._types = {
            port.get_any_name(): _integers(port.get_element_type()) for port in self._model.inputs
        }
        self.limits = self._graph.limits(source, CPU_LIMITS)
        self._threads = source.threads
        self._request = self._compile()

    def begin(self, threads: int) -> None:
        """Compile the graph again where it has another number of threads."""
        if threads != self._threads:
            self._threads = threads
            self._request = self._compile()

    def forward(self, sequences: Sequence[TokenSequence]) -> list[Outputs]:
        """See `engines.base.Engine`."""
        return forward_in_groups(
            sequences, self.limits, self._forward_rows, per_token=self._source.per_token
        )

    def session(self) -> Session:
        """See `engines.base.Engine`."""
        raise NotImplementedError("the engine openvino does not generate text")

    def _compile(self) -> Any:
        options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": _HINTS[self.precision],
            # Workers share the machine: two of them must not be tied to the same core.
            "ENABLE_CPU_PINNING": False,
        }
        if self._threads:
            options["INFERENCE_NUM_THREADS"] = self._threads
        try:
            compiled = _core.compile_model(self._model, "CPU", options)
        except Exception as error:
            raise LoadError(
                f"{self._graph.file.name} cannot be compiled by OpenVINO: {first_line(error)}"
            ) from error
        return compiled.create_infer_request()

    def _forward_rows(self, rows: list[TokenSequence]) -> dict[str, npt.NDArray[np.float32]]:
        self.padding += count_padding(rows)
        fed = self._graph.feed(rows, self._source.pad_id or 0)
        found = self._request.infer(
            {name: array.astype(self._types[name]) for name, array in fed.items()}
        )
        named = zip(self._source.outputs, self._places, strict=True)
        return {name: found[place].astype(np.float32, copy=False) for name, place in named}


def _check_precision(precision: Precision) -> None:
    """OpenVINO computes in fp32, without a word, where the CPU lacks what was asked for."""
    if precision not in ("bf16", "fp16"):
        return
    able = {str(name).lower() for name in _core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")}
    if precision not in able:
        has = ["fp32", "int8", *(name for name in ("bf16", "fp16") if name in able)]
        raise LoadError(
            f"precision is {precision}, which this CPU cannot compute in. Allowed:"
            f" {', '.join(has)}."
        )


def _integers(element_type: Any) -> type[np.signedinteger[Any]]:
    return np.int32 if element_type == openvino.Type.i32 else np.int64


def _describe(file: Path, model: Any) -> Graph:
    inputs = {
        port.get_any_name(): tuple(
            None if axis.is_dynamic else axis.get_length() for axis in port.partial_shape
        )
        for port in model.inputs
    }
    ranks = [port.partial_shape.rank for port in model.outputs]
    lasts = [
        None if rank.is_dynamic or not rank.get_length() else port.partial_shape[-1]
        for rank, port in zip(ranks, model.outputs, strict=True)
    ]
    return Graph(
        file=file,
        inputs=inputs,
        outputs=tuple(min(port.names, default="") for port in model.outputs),
        ranks=tuple(None if rank.is_dynamic else rank.get_length() for rank in ranks),
        widths=tuple(
            None if last is None or last.is_dynamic else last.get_length() for last in lasts
        ),
    )
