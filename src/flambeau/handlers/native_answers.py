"""Answers from what a model made, and what is said where none can be made."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from flambeau.errors import PredictionError
from flambeau.handlers.isolation import hidden_error
from flambeau.handlers.native_jobs import Answer, Part
from flambeau.tasks.base import Continuation, ForwardTask, GenerationTask

Made = TypeVar("Made")


def guarded(make: Callable[[], Made]) -> Made | PredictionError:
    """What `make` gives. An error of its own is told and logged without the text."""
    try:
        return make()
    except PredictionError as error:  # what only the model's output could tell
        return error
    except Exception as error:  # noqa: BLE001 - as in run_isolated
        return hidden_error(error, "No answer could be made of the model's output")


def postprocess(task: ForwardTask, part: Part) -> Answer:
    """A complete entry's answer. Raises `PredictionError` where it is made of no numbers."""
    rows = part.outputs()
    for row in rows:
        for window in row.windows:
            require_numbers(window.outputs)
    return Answer(task.postprocess(rows, part.entry, part.request.options), part.usage())


def generated_answer(task: GenerationTask, part: Part, continued: Sequence[Continuation]) -> Answer:
    """An entry's answer from what its prompt was continued with."""
    value = task.postprocess(continued, part.entry, part.request.options)
    return Answer(value, part.generation_usage(continued))


def require_numbers(outputs: Mapping[str, npt.NDArray[np.floating]]) -> None:
    """Raise `PredictionError` for NaN and infinite values."""
    if not all(np.isfinite(array).all() for array in outputs.values()):
        raise PredictionError(
            "The model gave values that are no numbers (NaN or infinite) for this input."
            " Its weights or its precision are broken."
        )
