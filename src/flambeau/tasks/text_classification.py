"""Text classification: one label for a text or a pair of texts, with the scores of all."""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt
from typing_extensions import override

from flambeau.tasks.base import (
    AnswerOptions,
    BaseParameters,
    ForwardTask,
    RowOutputs,
    TextInput,
    sigmoid,
    softmax,
)
from flambeau.types import JsonValue, TaskName


class Parameters(BaseParameters, frozen=True, kw_only=True):
    """`top_k`: only so many labels, the best ones."""

    top_k: Annotated[int, msgspec.Meta(ge=1)] | None = None


class Task(ForwardTask):
    """Legacy answer: the label. Full answer: all labels with scores, the best first."""

    name: ClassVar[TaskName] = "text-classification"
    example: ClassVar[JsonValue] = "Flambeau carries the torch on."
    has_labels: ClassVar[bool] = True
    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    Parameters: ClassVar[type[BaseParameters]] = Parameters

    @override
    def postprocess(
        self, rows: Sequence[RowOutputs], entry: TextInput, options: AnswerOptions
    ) -> JsonValue:
        logits = rows[0].windows[0].outputs["logits"]
        if options.shape == "legacy":
            return self.label(int(np.argmax(logits)))
        scores = self.scores(logits)
        best_first = np.argsort(-scores, kind="stable")
        best_first = best_first[: options.parameters.top_k]
        return [
            {"label": self.label(int(index)), "score": float(scores[index])} for index in best_first
        ]

    def scores(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """One score per label, as the text-classification pipeline gives them.

        Softmax over several labels, sigmoid for a single one and where several may hold at once,
        the raw value for a regression.
        """
        if self.head.problem_type == "regression":
            return logits.astype(np.float64)
        if self.head.problem_type == "multi_label_classification" or len(logits) == 1:
            return sigmoid(logits)
        return softmax(logits)
