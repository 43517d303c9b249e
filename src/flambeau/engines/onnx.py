"""Runs an exported graph in ONNX Runtime. Imports neither torch nor transformers.

Graphs are this project's own (`flambeau pack --engine onnx`), Optimum's, or any other with the
inputs of a text encoder.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flambeau.archive.graphs import Form, precision_of
from flambeau.engines.base import (
    CPU_LIMITS,
    GPU_LIMITS,
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

if TYPE_CHECKING:
    from flambeau.types import Precision

try:
    import onnxruntime
except ImportError as error:
    raise LoadError(
        f"The engine onnx needs ONNX Runtime ({first_line(error)}): pip install 'flambeau[onnx]'."
    ) from error


class Engine:
    """Padded batches of rows of about one length; in int8, each row alone."""

    def __init__(self, source: ModelSource) -> None:
        if source.generates:
            raise LoadError("The engine onnx does not generate text. Use engine: torch.")
        self._source = source
        cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        self.device = pick_device(source.gpu, cuda_available=cuda)
        self.padding = 0
        self._file = open_form(source, Form("onnx", source.precision or "fp32"))
        self.precision: Precision = source.precision or precision_of(self._file)
        self._threads = source.threads
        self._session = _open(self._file, self.device, self._threads)
        self._graph = _describe(self._file, self._session)
        self._graph.check()
        self._places = self._graph.places(source)
        self._types = {
            one.name: np.int32 if one.type == "tensor(int32)" else np.int64
            for one in self._session.get_inputs()
        }
        limits = CPU_LIMITS if self.device == "cpu" else GPU_LIMITS
        self.limits = self._graph.limits(source, limits)
        if self.precision == "int8":
            # Dynamic quantisation has one scale for all rows: company would change an answer.
            self.limits = None

    def begin(self, threads: int) -> None:
        """Open the graph again where it has another number of threads.

        A session with one thread starts none and survives a fork.
        """
        if threads != self._threads:
            self._threads = threads
            self._session = _open(self._file, self.device, threads)

    def forward(self, sequences: Sequence[TokenSequence]) -> list[Outputs]:
        """See `engines.base.Engine`."""
        return forward_in_groups(
            sequences, self.limits, self._forward_rows, per_token=self._source.per_token
        )

    def session(self) -> Session:
        """See `engines.base.Engine`."""
        raise NotImplementedError("the engine onnx does not generate text")

    def _forward_rows(self, rows: list[TokenSequence]) -> dict[str, npt.NDArray[np.float32]]:
        self.padding += count_padding(rows)
        fed = self._graph.feed(rows, self._source.pad_id or 0)
        found = self._session.run(
            None, {name: array.astype(self._types[name]) for name, array in fed.items()}
        )
        named = zip(self._source.outputs, self._places, strict=True)
        return {name: found[place].astype(np.float32, copy=False) for name, place in named}


def _open(file: Path, device: str, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors: nothing that it warns of can be changed by a user
    # Rows come in all lengths: a plan for the memory of each shape would be kept for ever.
    options.enable_mem_pattern = False
    # Threads that wait in a loop take cores from other workers and from the server.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: list[Any] = ["CPUExecutionProvider"]
    if device != "cpu":
        index = device.removeprefix("cuda:")
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": index}))
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=providers)
    except Exception as error:
        raise LoadError(
            f"{file.name} cannot be loaded by ONNX Runtime: {first_line(error)}"
        ) from error


def _describe(file: Path, session: Any) -> Graph:
    return Graph(
        file=file,
        inputs={
            one.name: tuple(size if isinstance(size, int) else None for size in one.shape)
            for one in session.get_inputs()
        },
        outputs=tuple(one.name for one in session.get_outputs()),
        ranks=tuple(len(one.shape) if one.shape else None for one in session.get_outputs()),
        widths=tuple(
            one.shape[-1] if one.shape and isinstance(one.shape[-1], int) else None
            for one in session.get_outputs()
        ),
    )
