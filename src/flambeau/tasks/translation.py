"""Translation: a text in another language."""

from typing import Any, ClassVar

from typing_extensions import override

from flambeau.tasks.base import (
    BaseParameters,
    GenerationParameters,
    Inputs,
    SequenceToSequenceTask,
)
from flambeau.types import JsonValue, TaskName

_NEEDS_LANGUAGES = frozenset({"mbart", "m2m_100", "nllb-moe"})
"""Model types whose texts begin or end with a language's token."""


class Parameters(GenerationParameters, frozen=True, kw_only=True):
    """`src_lang` and `tgt_lang` are the model's own codes, such as `en_XX` or `fra_Latn`.

    For models like T5 they choose the prefix: `en` and `fr` stand for `translation_en_to_fr`.
    """

    src_lang: str | None = None
    tgt_lang: str | None = None


class Task(SequenceToSequenceTask):
    """Answers `{"translation_text": …}`; legacy, the text alone."""

    name: ClassVar[TaskName] = "translation"
    example: ClassVar[JsonValue] = "The torch carries the light."
    answer_name: ClassVar[str] = "translation_text"
    Parameters: ClassVar[type[BaseParameters]] = Parameters

    @override
    def check(self, inputs: Inputs) -> None:
        super().check(inputs)
        parameters: Any = inputs.parameters
        given = (parameters.src_lang, parameters.tgt_lang)
        if (None in given) != (given == (None, None)):
            raise self.invalid("'src_lang' and 'tgt_lang' go together: set both")

    @override
    def defaults(self, parameters: Any) -> dict[str, Any]:
        """Raises `PredictionError` where the model needs languages and gets none."""
        if self.head.config.get("model_type") in _NEEDS_LANGUAGES and parameters.src_lang is None:
            raise self.invalid("this model needs 'src_lang' and 'tgt_lang' under 'parameters'")
        return super().defaults(parameters)

    @override
    def params_name(self, parameters: Any) -> str:
        if parameters.src_lang is None:
            return self.name
        return f"translation_{parameters.src_lang}_to_{parameters.tgt_lang}"
