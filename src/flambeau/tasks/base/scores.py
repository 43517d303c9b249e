"""Logits to scores."""

import numpy as np
import numpy.typing as npt


def softmax(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Probabilities over the last axis, computed in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def sigmoid(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Independent probabilities, computed in float64 and without overflow."""
    small = np.exp(-np.abs(logits.astype(np.float64)))
    return np.asarray(np.where(logits < 0, small, 1.0) / (1.0 + small))


def class_scores(
    logits: npt.NDArray[np.float32], problem_type: str | None, function: str | None
) -> npt.NDArray[np.float64]:
    """One score per label and row of logits, as the classification pipelines give them.

    `function` is `sigmoid`, `softmax` or `none`; anything else leaves it to the model: sigmoid for
    a single label and where several may hold at once, the raw values for a regression, else softmax.
    """
    if function not in ("sigmoid", "softmax", "none"):
        function = "softmax"
        if problem_type == "regression":
            function = "none"
        elif problem_type == "multi_label_classification" or logits.shape[-1] == 1:
            function = "sigmoid"
    if function == "none":
        return logits.astype(np.float64)
    return sigmoid(logits) if function == "sigmoid" else softmax(logits)


def largest(scores: npt.NDArray[np.floating], count: int) -> npt.NDArray[np.intp]:
    """Indices of the `count` largest, the largest first, the first of equals first."""
    if count < len(scores):
        chosen = np.sort(np.argpartition(-scores, count)[:count])
    else:
        chosen = np.arange(len(scores))
    return chosen[np.argsort(-scores[chosen], kind="stable")]
