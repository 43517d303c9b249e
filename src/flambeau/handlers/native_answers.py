"""Answers from what a model made, and what is said where none can be made."""

import logging
import traceback
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from flambeau.errors import PredictionError
from flambeau.handlers.native_jobs import Answer, Part
from flambeau.tasks.base import ForwardTask

logger = logging.getLogger(__name__)

Made = TypeVar("Made")


def guarded(task: ForwardTask, make: Callable[[], Made]) -> Made | PredictionError:
    """What `make` gives. An error of its own is told and logged without the text."""
    try:
        return make()
    except PredictionError as error:  # what only the model's output could tell
        return error
    except Exception as error:  # noqa: BLE001 - as in run_isolated
        # The message may quote the text; where it was raised does not.
        where = "".join(traceback.format_tb(error.__traceback__))
        logger.error("%s made no answer: %s\n%s", task.name, type(error).__name__, where)  # noqa: TRY400 - see above
        return PredictionError(
            f"No answer could be made of the model's output ({type(error).__name__})."
        )


def postprocess(task: ForwardTask, part: Part) -> Answer:
    """A complete entry's answer. Raises `PredictionError` where it is made of no numbers."""
    rows = part.outputs()
    for row in rows:
        for window in row.windows:
            require_numbers(window.outputs)
    return Answer(task.postprocess(rows, part.entry, part.request.options), part.usage())


def require_numbers(outputs: Mapping[str, npt.NDArray[np.floating]]) -> None:
    """Raise `PredictionError` for NaN and infinite values."""
    if not all(np.isfinite(array).all() for array in outputs.values()):
        raise PredictionError(
            "The model gave values that are no numbers (NaN or infinite) for this input."
            " Its weights or its precision are broken."
        )
