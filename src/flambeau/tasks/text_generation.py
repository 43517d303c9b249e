"""Text generation: a text goes on."""

from typing import ClassVar, Literal

from typing_extensions import override

from flambeau.tasks.base import (
    AnswerOptions,
    Continuation,
    GenerationTask,
    RowValue,
    TextInput,
    require_unicode,
)
from flambeau.types import JsonValue, TaskName


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
