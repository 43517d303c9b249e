"""The built-in handler `object_detector` (contract.md section 9.5)."""

from typing import Any

import torch
from typing_extensions import override

from flambeau.handlers.image_transforms import library, to_rgb
from flambeau.handlers.ts.handler_utils.timer import timed
from flambeau.handlers.ts.torch_handler.vision_handler import VisionHandler
from flambeau.handlers.ts.utils.util import map_class_to_label

__all__ = ["ObjectDetector"]


def _detector_transforms() -> Any:
    transforms = library()
    return transforms.Compose([to_rgb, transforms.ToTensor()])


class ObjectDetector(VisionHandler):
    """Answers with the boxes of each image whose score is at least `threshold`."""

    image_processing = _detector_transforms()
    threshold = 0.5

    @override
    @timed
    def preprocess(self, data: Any) -> Any:
        """The images [rows, 3, height, width], or a list of them where their sizes differ."""
        images = [self._tensor(row).to(self.device) for row in data]
        if len({image.shape for image in images}) == 1:
            return torch.stack(images)
        return images

    @override
    @timed
    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """The model's `{boxes, labels, scores}` for each image."""
        with torch.inference_mode():
            return self.model(data, *args, **kwargs)

    @override
    def postprocess(self, data: Any) -> Any:
        """Per image a list of `{label: [x1, y1, x2, y2], "score": s}`."""
        return [self._found(row) for row in data]

    def _found(self, row: Any) -> list[dict[str, Any]]:
        kept = row["scores"] >= self.threshold
        boxes, labels, scores = (row[key][kept].tolist() for key in ("boxes", "labels", "scores"))
        named = map_class_to_label([[box] for box in boxes], self.mapping, [[c] for c in labels])
        return [{**box, "score": score} for box, score in zip(named, scores, strict=True)]
