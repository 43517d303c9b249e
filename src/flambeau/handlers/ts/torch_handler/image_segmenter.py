"""The built-in handler `image_segmenter` (contract.md section 9.5)."""

from typing import Any

import torch
from typing_extensions import override

from flambeau.handlers.ts.torch_handler.image_classifier import imagenet_transforms
from flambeau.handlers.ts.torch_handler.vision_handler import VisionHandler

__all__ = ["ImageSegmenter"]


class ImageSegmenter(VisionHandler):
    """Answers with the most probable class of each pixel."""

    image_processing = imagenet_transforms()

    @override
    def postprocess(self, data: Any) -> Any:
        """The model's `out`, scores [rows, classes, height, width] → [height][width][class, p]."""
        scores = torch.nn.functional.softmax(data["out"], dim=1)
        best = torch.max(scores, dim=1)
        return torch.stack([best.indices.to(best.values.dtype), best.values], dim=3).tolist()
