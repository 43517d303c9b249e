"""Text classification: one label for a text or a pair of texts, with the scores of all."""

from typing import ClassVar

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from flambeau.tasks.base import (
    AnswerOptions,
    Arrays,
    Encoding,
    ForwardTask,
    Inputs,
    RowValue,
    TextInput,
    sigmoid,
    softmax,
)
from flambeau.types import JsonValue, TaskName


class Task(ForwardTask):
    """Legacy answer: the label. Full answer: all labels with scores, the best first."""

    name: ClassVar[TaskName] = "text-classification"
    example: ClassVar[JsonValue] = "Flambeau carries the torch on."
    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    parameters: ClassVar[frozenset[str]] = frozenset({"top_k"})

    @override
    def parse(self, value: RowValue) -> Inputs:
        inputs = super().parse(value)
        top_k = inputs.parameters.get("top_k", 1)
        if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
            raise self.invalid("'top_k' must be a whole number from 1 on")
        return inputs

    @override
    def postprocess(
        self, outputs: Arrays, encoding: Encoding, entry: TextInput, options: AnswerOptions
    ) -> JsonValue:
        logits = outputs["logits"]
        if options.shape == "legacy":
            return self.label(int(np.argmax(logits)))
        scores = self.scores(logits)
        best_first = np.argsort(-scores, kind="stable")
        top_k = options.parameters.get("top_k")
        if isinstance(top_k, int):
            best_first = best_first[:top_k]
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
