"""Text generation: a text goes on, or a conversation."""

from typing import Any, ClassVar, Literal

from typing_extensions import override

from flambeau.tasks.base import (
    AnswerOptions,
    BaseParameters,
    Chat,
    Entry,
    GenerationParameters,
    GenerationTask,
    RowValue,
    json_type,
    require_unicode,
)
from flambeau.types import JsonValue, TaskName


class Parameters(GenerationParameters, frozen=True, kw_only=True):
    """`return_full_text` False: the answer has what was generated, and not the prompt."""

    return_full_text: bool = True


class Task(GenerationTask):
    """Legacy answer: prompt and continuation as text. Full answer: with counts and the reason.

    Of a prompt that is too long the beginning is cut off. A list of messages is a conversation,
    whose answer is the conversation with the model's message.
    """

    name: ClassVar[TaskName] = "text-generation"
    example: ClassVar[JsonValue] = "Flambeau carries"
    accepts: ClassVar[str] = (
        'plain text, {"inputs": "...", "parameters": {...}}, a JSON list of texts, or of messages'
        ' {"role": "user", "content": "..."}'
    )
    truncation_side: ClassVar[Literal["left", "right"]] = "left"
    sampling_asks: ClassVar[bool] = True
    Parameters: ClassVar[type[BaseParameters]] = Parameters

    @override
    def is_many(self, value: RowValue) -> bool:
        return super().is_many(value) and not _is_chat(value)

    @override
    def read_entry(self, value: RowValue) -> Entry:
        if _is_chat(value):
            assert isinstance(value, list | tuple)
            return Chat([self._read_message(each) for each in value])
        return super().read_entry(value)

    @override
    def require_text(self, value: RowValue, what: str) -> str:
        # White space alone is a prompt like any other.
        if isinstance(value, str) and value.isspace():
            require_unicode(value)
            return value
        return super().require_text(value, what)

    @override
    def cleans(self, options: AnswerOptions) -> bool:
        """The pipelines do, unless they are told not to."""
        asked: bool | None = options.parameters.clean_up_tokenization_spaces
        return options.pipeline if asked is None else asked

    @override
    def whole(self, entry: Any, text: str, options: AnswerOptions) -> JsonValue:
        """A continuation with what came before it, unless the request does not want that."""
        if not options.parameters.return_full_text:
            return text
        if not isinstance(entry, Chat):
            return f"{entry.text}{text}"
        if entry.continues:
            last = entry.messages[-1]
            return [*entry.messages[:-1], {**last, "content": f"{last['content']}{text}"}]
        return [*entry.messages, {"role": "assistant", "content": text}]

    def _read_message(self, value: RowValue) -> dict[str, JsonValue]:
        if not isinstance(value, dict) or not isinstance(value.get("role"), str):
            raise self.invalid("each message must be an object with 'role' and 'content'")
        content = value.get("content")
        if not isinstance(content, str):
            raise self.invalid(f"a message's 'content' must be a string, not {json_type(content)}")
        require_unicode(content)
        return value


def _is_chat(value: RowValue) -> bool:
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(each, dict) and "role" in each for each in value)
    )
