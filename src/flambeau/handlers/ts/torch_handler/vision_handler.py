"""The base class of handlers for images (contract.md section 9.5)."""

import base64
import io
import logging
from abc import ABC
from typing import Any

import torch
from typing_extensions import override

from flambeau.handlers.optional_packages import require
from flambeau.handlers.ts.handler_utils.timer import timed
from flambeau.handlers.ts.torch_handler.base_handler import BaseHandler
from flambeau.handlers.ts.utils.util import PredictionException

__all__ = ["VisionHandler"]

_logger = logging.getLogger(__name__)
_EXPLAIN_STEPS = 15


class VisionHandler(BaseHandler, ABC):
    """Turns each row into an image tensor by the subclass's `image_processing`.

    captum is needed for explanations only, and imported with the first one.
    """

    image_processing: Any
    _ig: Any = None  # on the class: subclasses that use MicroBatching skip the constructor

    @override
    def initialize(self, context: Any) -> None:
        """Load the model; with `limit_max_image_pixels=false` images may have any size."""
        pillow = require("PIL.Image", f"The handler {_name(self)}", "pip install pillow")
        super().initialize(context)
        if not context.system_properties.get("limit_max_image_pixels"):
            setattr(pillow, "MAX_IMAGE_PIXELS", None)  # noqa: B010 - a module, to the type checker

    @property
    def ig(self) -> Any:
        """captum's IntegratedGradients of the model."""
        if self._ig is None:
            way_out = "pip install captum (without it the model answers, and explains nothing)"
            captum = require("captum.attr", "Explaining images", way_out)
            self._ig = captum.IntegratedGradients(self.model)
        return self._ig

    @ig.setter
    def ig(self, value: Any) -> None:
        self._ig = value

    @override
    @timed
    def preprocess(self, data: Any) -> Any:
        """The images of all rows as one tensor [rows, channels, height, width] on the device.

        A row's `data` or `body` is an image file's bytes, the same in base64 text, or nested lists
        of numbers, which become a tensor as they are.
        """
        return torch.stack([self._tensor(row) for row in data]).to(self.device)

    def _tensor(self, row: Any) -> torch.Tensor:
        """One row's image; PredictionException with status 400 if there is none that can be read."""
        image = (row.get("data") or row.get("body")) if isinstance(row, dict) else row
        pillow = require("PIL.Image", f"The handler {_name(self)}", "pip install pillow")
        try:
            if isinstance(image, str):
                image = base64.b64decode(image)
            if not isinstance(image, bytes | bytearray):
                return torch.tensor(image, dtype=torch.float32)
            opened = pillow.open(io.BytesIO(image))
            opened.load()
        except Exception as error:  # decoders raise errors of every kind
            _logger.warning("A request's image cannot be read.", exc_info=error)
            message = "The request holds no image that can be read (bytes, base64, or numbers)."
            raise PredictionException(message, 400) from error
        tensor: torch.Tensor = self.image_processing(opened)
        return tensor

    def get_insights(self, tensor_data: Any, _: Any, target: Any = 0) -> list[Any]:
        """How much each input value added to the score of class `target`, per row."""
        attributions = self.ig.attribute(tensor_data, target=target, n_steps=_EXPLAIN_STEPS)
        values: list[Any] = attributions.tolist()
        return values


def _name(handler: object) -> str:
    return type(handler).__name__
