"""The built-in handler `image_classifier` (contract.md section 9.5)."""

from typing import Any

import torch
from typing_extensions import override

from flambeau.handlers.image_transforms import library, to_rgb
from flambeau.handlers.ts.handler_utils.timer import timed
from flambeau.handlers.ts.torch_handler.vision_handler import VisionHandler
from flambeau.handlers.ts.utils.util import map_class_to_label

__all__ = ["ImageClassifier", "imagenet_transforms"]


def imagenet_transforms() -> Any:
    """What ImageNet models expect: [3, 224, 224] around zero, of an image in any mode."""
    transforms = library()
    return transforms.Compose(
        [
            to_rgb,
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )


class ImageClassifier(VisionHandler):
    """Answers with the `topk` most probable classes of each image, by label."""

    topk = 5
    image_processing = imagenet_transforms()

    def set_max_result_classes(self, topk: int) -> None:
        """Answer with `topk` classes."""
        self.topk = topk

    def get_max_result_classes(self) -> int:
        """How many classes an answer has."""
        return self.topk

    @override
    @timed
    def postprocess(self, data: Any) -> Any:
        """Scores [rows, classes] → one dict label → probability per row, best first."""
        return best_classes(data, self.topk, self.mapping)


def best_classes(scores: Any, topk: int, mapping: Any) -> list[dict[str, float]]:
    """The `topk` classes of highest probability (all, if there are fewer) of each row."""
    probabilities = torch.nn.functional.softmax(scores, dim=1)
    best, classes = torch.topk(probabilities, min(topk, probabilities.shape[1]), dim=1)
    return map_class_to_label(best.tolist(), mapping, classes.tolist())
