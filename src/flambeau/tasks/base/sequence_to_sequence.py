"""What text2text-generation, summarization and translation share: an encoder reads the text."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from typing_extensions import override

from flambeau.tasks.base.generation import GenerationTask
from flambeau.tasks.base.records import TextInput
from flambeau.tasks.base.task import AnswerOptions
from flambeau.types import JsonValue


class SequenceToSequenceTask(GenerationTask):
    """A task that answers with a text of its own.

    The model's `task_specific_params` are followed as the Transformers pipelines follow them: a
    `prefix` before each text, and generation settings.
    """

    encodes: ClassVar[bool] = True
    pipeline_defaults: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 256, "num_beams": 4}
    accepts: ClassVar[str] = (
        'plain text, {"inputs": "...", "parameters": {"max_new_tokens": 50}},'
        " or a JSON list of texts"
    )

    def params_name(self, parameters: Any) -> str:  # noqa: ARG002 - for tasks that need it
        """Under which name `task_specific_params` has this task."""
        return self.name

    @override
    def rows(self, entry: Any, parameters: Any) -> Sequence[TextInput]:
        prefix = self._specific(parameters).get("prefix") or self.head.config.get("prefix")
        return [TextInput(f"{prefix}{entry.text}") if isinstance(prefix, str) else entry]

    @override
    def defaults(self, parameters: Any) -> dict[str, Any]:
        return {k: v for k, v in self._specific(parameters).items() if k != "prefix"}

    @override
    def assemble(self, answers: list[JsonValue], options: AnswerOptions) -> JsonValue:
        """As the pipelines: a list of texts with one answer each is one list."""
        if options.pipeline and options.many and options.shape == "full":
            lists = [answer for answer in answers if isinstance(answer, list)]
            if all(len(each) == 1 for each in lists):
                return [each[0] for each in lists]
        return super().assemble(answers, options)

    def _specific(self, parameters: Any) -> Mapping[str, Any]:
        found = self.head.config.get("task_specific_params")
        own = found.get(self.params_name(parameters)) if isinstance(found, Mapping) else None
        return own if isinstance(own, Mapping) else {}
