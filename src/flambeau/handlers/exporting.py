"""Makes graphs of Transformers models: ONNX from PyTorch, OpenVINO from ONNX, int8 of both.

A graph takes `input_ids`, `attention_mask` and, where the model tells a first text from a second,
`token_type_ids`: integers `[batch, sequence]`, both of any size. It gives the task's arrays.
"""

import inspect
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from typing_extensions import override

from flambeau.errors import LoadError, first_line

OPSET = 17
"""ONNX's operators of 2022, the first with layer normalisation: read by every runtime of today."""

_LARGEST_BYTES = 1_900_000_000
"""One ONNX file holds less than 2 GB."""


class _Encoder(torch.nn.Module):
    """A model with inputs and outputs in a fixed order."""

    def __init__(self, model: Any, inputs: list[str], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self._inputs = inputs
        self._outputs = outputs
        # Decoders with a classification head would return a cache, too.
        takes_cache = "use_cache" in inspect.signature(model.forward).parameters
        self._options = {"use_cache": False} if takes_cache else {}

    @override
    def forward(self, *inputs: torch.Tensor) -> Any:
        named = dict(zip(self._inputs, inputs, strict=True))
        result = self.model(**named, **self._options)
        return tuple(result[name] for name in self._outputs)


def input_names(model: Any) -> list[str]:
    """What a model reads: token types only where it was trained with two kinds of them."""
    names = ["input_ids", "attention_mask"]
    accepted = "token_type_ids" in inspect.signature(model.forward).parameters
    if accepted and getattr(model.config, "type_vocab_size", 0) > 1:
        names.append("token_type_ids")
    return names


def write_onnx(model: Any, outputs: tuple[str, ...], *, per_token: bool, file: Path) -> None:
    """Export a model in float32. Raises `LoadError` where that cannot be done.

    By PyTorch's older exporter: its graphs gave the same scores and speed as the newer one's for
    all architectures tried (2026-11-28, torch 2.13, transformers 5.23), in a twentieth of the time
    and without packages of its own.
    """
    size = sum(parameter.numel() for parameter in model.parameters()) * 4
    if size > _LARGEST_BYTES:
        raise LoadError(
            f"The model has {size / 1e9:.1f} GB of weights, and one ONNX file holds 2 GB. Use"
            " engine: torch."
        )
    names = input_names(model)
    axes = {0: "batch", 1: "sequence"}
    result_axes = axes if per_token else {0: "batch"}
    model.set_attn_implementation("eager")  # fewer nodes than what SDPA is taken apart into
    ids = torch.tensor([[5, 6, 7, 8, 9, 10], [5, 6, 7, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    inputs = (ids, mask, torch.zeros_like(ids))[: len(names)]
    with torch.no_grad(), warnings.catch_warnings():
        # It warns of its age, and of every shape that Python reads: the comparison is the proof.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                _Encoder(model, names, outputs).eval(),
                inputs,
                str(file),
                input_names=names,
                output_names=list(outputs),
                dynamic_axes=dict.fromkeys(names, axes) | dict.fromkeys(outputs, result_axes),
                opset_version=OPSET,
                dynamo=False,
            )
        except Exception as error:
            raise LoadError(
                f"The model cannot be exported to ONNX: {type(error).__name__}:"
                f" {first_line(error)} Use engine: torch."
            ) from error


def simplify_onnx(file: Path) -> None:
    """Fold what is constant in a graph, in ONNX's own operators: it loads in half the time."""
    import onnxruntime

    simple = file.with_name(f"simple_{file.name}")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(simple)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    simple.replace(file)


def quantise_onnx(source: Path, target: Path) -> None:
    """Weights of matrix products as int8, a scale for each column; activations when they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source,
        target,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True},  # products of two activations stay as they are
    )


def write_openvino(source: Path, target: Path, *, int8: bool) -> None:
    """An ONNX graph as OpenVINO's own, in float32 or with int8 weights."""
    import openvino

    model = openvino.Core().read_model(source)
    if int8:
        _compress(model)
    openvino.save_model(model, target, compress_to_fp16=False)


def _compress(model: Any) -> None:
    """Give matrix products weights of 8 bits, with a scale and a zero for each row.

    This is the form that NNCF's compress_weights writes (NNCF would bring SciPy and scikit-learn
    along); the CPU plugin then quantises activations when they come, in groups of a row.
    """
    from openvino import opset13

    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul":
            continue
        constant = node.input_value(1).get_node()
        attributes = node.get_attributes()
        if constant.get_type_name() != "Constant" or len(constant.get_output_shape(0)) != 2:
            continue
        weights = constant.get_data().astype(np.float32)
        rows = weights if attributes["transpose_b"] else np.ascontiguousarray(weights.T)
        low = np.minimum(rows.min(1, keepdims=True), 0)
        scale = np.maximum((np.maximum(rows.max(1, keepdims=True), 0) - low) / 255, 1e-12)
        zero = np.round(-low / scale)
        levels = np.clip(np.round(rows / scale) + zero, 0, 255).astype(np.uint8)
        centred = opset13.subtract(
            opset13.convert(opset13.constant(levels), "f32"),
            opset13.convert(opset13.constant(zero.astype(np.uint8)), "f32"),
        )
        product = opset13.matmul(
            node.input_value(0),
            opset13.multiply(centred, opset13.constant(scale.astype(np.float32))),
            attributes["transpose_a"],
            True,
        )
        product.set_friendly_name(node.get_friendly_name())
        node.output(0).replace(product.output(0))
