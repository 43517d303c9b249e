"""Feature extraction: the vector that a model has for each token of a text."""

from collections.abc import Sequence
from typing import Any, ClassVar

from typing_extensions import override

from flambeau.tasks.base import (
    BESIDE_NAMES,
    AnswerOptions,
    BaseParameters,
    ForwardTask,
    LengthParameters,
    RowOutputs,
    WindowRule,
    length_rule,
    short_numbers,
    translate_length,
)
from flambeau.types import JsonValue, TaskName


class Task(ForwardTask):
    """Legacy and full answer: `[1][tokens][width]` for a text, a list of those for a list.

    Special tokens are included. With `truncation: window` the first axis are the windows.
    """

    name: ClassVar[TaskName] = "feature-extraction"
    example: ClassVar[JsonValue] = {"inputs": "Flambeau carries the torch on."}
    outputs: ClassVar[tuple[str, ...]] = ("last_hidden_state",)
    Parameters: ClassVar[type[BaseParameters]] = LengthParameters
    beside: ClassVar[frozenset[str]] = BESIDE_NAMES
    compact: ClassVar[bool] = True

    @override
    def translate(self, given: dict[str, Any]) -> dict[str, Any]:
        if given.get("return_tensors"):
            raise self.invalid(
                "'return_tensors' must be false: answers are JSON's lists of numbers"
            )
        others = [name for name in ("dimensions", "normalize", "prompt_name") if name in given]
        if others:
            raise self.invalid(
                f"'{others[0]}' is for models that give one vector for a text: serve the model with"
                " the task embeddings"
            )
        given = {name: value for name, value in given.items() if name != "return_tensors"}
        return translate_length(given)

    @override
    def window_rule(self, parameters: Any) -> WindowRule:
        return length_rule(parameters, self.truncations[0])

    @override
    def postprocess(
        self, rows: Sequence[RowOutputs], entry: Any, options: AnswerOptions
    ) -> JsonValue:
        return [short_numbers(window.outputs["last_hidden_state"]) for window in rows[0].windows]
