"""The built-in handler `dali_image_classifier` (contract.md section 9.5)."""

from typing import Any

from typing_extensions import override

from flambeau.handlers.ts.torch_handler.dali_handler import DALIHandler
from flambeau.handlers.ts.torch_handler.image_classifier import best_classes

__all__ = ["DALIHandler", "DALIImageClassifier"]


class DALIImageClassifier(DALIHandler):
    """Answers with the `topk` most probable classes of each image, by label."""

    topk = 5

    def set_max_result_classes(self, topk: int) -> None:
        """Answer with `topk` classes."""
        self.topk = topk

    def get_max_result_classes(self) -> int:
        """How many classes an answer has."""
        return self.topk

    @override
    def postprocess(self, data: Any) -> Any:
        """Scores [rows, classes] → one dict label → probability per row, best first."""
        return best_classes(data, self.topk, self.mapping)
