"""Text-to-text generation: a text in, another one out."""

from typing import ClassVar

from flambeau.tasks.base import SequenceToSequenceTask
from flambeau.types import JsonValue, TaskName


class Task(SequenceToSequenceTask):
    """Answers `{"generated_text": …}`; legacy, the text alone."""

    name: ClassVar[TaskName] = "text2text-generation"
    example: ClassVar[JsonValue] = "question: what carries the light? context: the torch carries it"
