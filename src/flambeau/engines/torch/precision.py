"""What a model's linear layers compute in: float32, half precision, or eight-bit integers on a CPU.

int8 is dynamic quantisation: weights are rounded once, a scale for each output channel; activations
are rounded as they come, a scale for each token. A scale of the whole batch, which PyTorch's own
dynamic layers use, would make a text's answer depend on its neighbours. The product is oneDNN's.
"""

from typing import Any

import torch
from typing_extensions import override

from flambeau.errors import LoadError
from flambeau.types import Precision

_HALF: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
_NAMES: dict[torch.dtype, Precision] = {torch.bfloat16: "bf16", torch.float16: "fp16"}

MIN_WIDTH = 64
"""Layers with fewer inputs or outputs stay as they are: heads, whose rounding shows in the answer."""


def apply_precision(model: Any, wanted: Precision | None, device: str) -> Precision:
    """Let `model` compute in `wanted` precision; returns the one that it has then.

    None: float32 on a CPU; on a GPU the checkpoint's half precision, else bf16. Raises `LoadError`
    for what this device cannot do.
    """
    on_cpu = device == "cpu"
    if wanted == "int8":
        if not on_cpu:
            raise LoadError("precision int8 is for models on the CPU. On a GPU, use bf16 or fp16.")
        _quantise(model)
        return "int8"
    if wanted is None:
        dtype = next(model.parameters()).dtype
        wanted = "fp32" if on_cpu else _NAMES.get(dtype, "bf16")
    model.to(_HALF.get(wanted, torch.float32))
    return wanted


def name_precision(dtype: torch.dtype) -> Precision:
    """What weights of this type are called."""
    return _NAMES.get(dtype, "fp32")


class Int8Linear(torch.nn.Module):
    """A linear layer over int8 weights, with float32 in and out."""

    def __init__(self, linear: torch.nn.Linear, shared: "_LastRounded") -> None:
        super().__init__()
        weight = linear.weight.detach()
        scales = (weight.abs().amax(1) / 127).clamp_min(1e-12)
        rounded = torch.round(weight / scales[:, None]).to(torch.int8)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._weight = torch.ops.onednn.qlinear_prepack(rounded, None)
        self._scales = scales
        self._zeros = torch.zeros(len(scales), dtype=torch.int32)
        bias: torch.Tensor | None = linear.bias
        self._bias = None if bias is None else bias.detach()
        self._shared = shared

    @override
    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """`[…, in_features]` to `[…, out_features]`."""
        rounded, scale = self._shared.round(states)
        product = torch.ops.onednn.qlinear_pointwise(
            rounded, 1.0, 0, self._weight, self._scales, self._zeros, None, 1.0, 0,
            torch.float32, "none", [], "",
        )  # fmt: skip
        if self._bias is None:
            return torch.mul(product, scale, out=product)
        return torch.addcmul(self._bias, product, scale, out=product)


class _LastRounded:
    """The last activations that were rounded: queries, keys and values are made of the same ones."""

    def __init__(self) -> None:
        self._states: torch.Tensor | None = None
        self._rounded: tuple[torch.Tensor, torch.Tensor] | None = None

    def round(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Integers of -127 to 127 and each token's scale, `[…, 1]`."""
        if self._states is states and self._rounded is not None:
            return self._rounded
        largest = torch.maximum(states.amax(-1, keepdim=True), states.amin(-1, keepdim=True).neg_())
        scale = largest.clamp_min_(1e-12).mul_(1 / 127)
        rounded = (states * scale.reciprocal()).round_().to(torch.int8)
        self._states, self._rounded = states, (rounded, scale)
        return self._rounded

    def forget(self, *_: Any) -> None:
        """Let go of them: called after each pass."""
        self._states = self._rounded = None


def _quantise(model: Any) -> None:
    """Replace the wide linear layers of the model's body; its head keeps float32.

    Raises `LoadError` where this build of PyTorch has no int8 product for this processor.
    """
    shared = _LastRounded()
    replaced = 0
    for module in list(model.base_model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Linear and min(child.weight.shape) >= MIN_WIDTH:
                setattr(module, name, _int8(child, shared))
                replaced += 1
    if not replaced:
        raise LoadError("precision int8 finds no linear layers to work on. Remove the setting.")
    model.base_model.register_forward_hook(shared.forget)  # some heads are called apart from it


def _int8(linear: torch.nn.Linear, shared: _LastRounded) -> Int8Linear:
    try:
        layer = Int8Linear(linear, shared)
        with torch.inference_mode():
            layer(torch.zeros(1, 2, linear.in_features))
    except (RuntimeError, AttributeError) as error:
        raise LoadError(
            "precision int8 is not to be had with this PyTorch on this processor:"
            f" {str(error).splitlines()[0]} Remove the setting."
        ) from error
    return layer
