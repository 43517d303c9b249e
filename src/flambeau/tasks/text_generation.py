"""Text generation: a text goes on."""

import json
from typing import ClassVar, Literal

import msgspec
from typing_extensions import override

from flambeau.tasks.base import (
    MIN_TEMPERATURE,
    AnswerOptions,
    Continuation,
    GenerationParameters,
    GenerationTask,
    RowValue,
    TextInput,
    json_type,
    require_unicode,
)
from flambeau.types import JsonValue, TaskName

_RANGES = {
    "max_new_tokens": "a whole number from 1 to 100000",
    "do_sample": "true or false",
    "temperature": f"0 (greedy) or a number from {MIN_TEMPERATURE} to 100",
    "top_k": "a whole number from 0 (all tokens) to 1000000",
    "top_p": "a number above 0 and at most 1",
    "seed": "a whole number from 0 to 2**63 - 1",
}
"""What `GenerationParameters` allows, in words."""


class Task(GenerationTask):
    """Legacy answer: prompt and continuation as text. Full answer: with counts and the reason.

    Of a prompt that is too long the beginning is cut off.
    """

    name: ClassVar[TaskName] = "text-generation"
    example: ClassVar[JsonValue] = "Flambeau carries"
    accepts: ClassVar[str] = (
        'plain text, {"inputs": "...", "parameters": {"max_new_tokens": 50}},'
        " or a JSON list of texts"
    )
    truncation_side: ClassVar[Literal["left", "right"]] = "left"

    @override
    def require_text(self, value: RowValue, what: str) -> str:
        # White space alone is a prompt like any other.
        if isinstance(value, str) and value.isspace():
            require_unicode(value)
            return value
        return super().require_text(value, what)

    @override
    def generation_parameters(self, parameters: dict[str, JsonValue]) -> GenerationParameters:
        given = dict(parameters)
        temperature = given.get("temperature")
        if isinstance(temperature, int | float) and temperature is not False and temperature == 0:
            given |= {"temperature": None, "do_sample": False}  # what OpenAI's clients mean
        for name, value in given.items():
            try:
                msgspec.convert({name: value}, GenerationParameters)
            except msgspec.ValidationError:
                raise self.invalid(
                    f"'{name}' must be {_RANGES[name]}, not {_shown(value)}"
                ) from None
        return msgspec.convert(given, GenerationParameters)

    @override
    def postprocess(
        self, continuation: Continuation, entry: TextInput, options: AnswerOptions
    ) -> JsonValue:
        text = entry.text + continuation.text
        if options.shape == "legacy":
            return text
        return {
            "generated_text": text,
            "prompt_tokens": continuation.prompt_tokens,
            "generated_tokens": continuation.generated_tokens,
            "finish_reason": continuation.finish_reason,
        }


def _shown(value: JsonValue) -> str:
    """The start of a value as JSON; a Python literal can hold what JSON cannot express."""
    try:
        return json.dumps(value)[:50]
    except (TypeError, ValueError, RecursionError):
        return json_type(value)
