"""The built-in handler `densenet_handler`: tensors in, tensors out (contract.md section 9.5)."""

import io
from typing import Any

import torch
from typing_extensions import override

from flambeau.handlers.ts.torch_handler.base_handler import BaseHandler
from flambeau.handlers.ts.utils.util import PredictionException

__all__ = ["DenseNetHandler"]


class DenseNetHandler(BaseHandler):
    """A row is a tensor as `torch.save` writes it; so is its answer, with a first dimension of 1.

    Bytes of a request are read as tensors and nothing else: what would run code is refused.
    """

    @override
    def preprocess(self, data: Any) -> Any:
        """The rows' tensors, stacked."""
        return torch.stack([_tensor(row) for row in data])

    @override
    def postprocess(self, data: Any) -> Any:
        """The model's output, one tensor [1, …] per row."""
        return [data[index : index + 1] for index in range(len(data))]


def _tensor(row: Any) -> torch.Tensor:
    """A row's tensor; PredictionException with status 400 if it has none."""
    saved = (row.get("data") or row.get("body")) if isinstance(row, dict) else row
    message = "The request must be one tensor as torch.save writes it."
    if not isinstance(saved, bytes | bytearray):
        raise PredictionException(message, 400)
    try:
        tensor = torch.load(io.BytesIO(saved), map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no tensor raise errors of every kind
        raise PredictionException(message, 400) from error
    if not isinstance(tensor, torch.Tensor):
        raise PredictionException(message, 400)
    return tensor
