"""Summarization: a long text in, a short one out."""

from typing import ClassVar

from flambeau.tasks.base import SequenceToSequenceTask
from flambeau.types import JsonValue, TaskName


class Task(SequenceToSequenceTask):
    """Answers `{"summary_text": …}`; legacy, the text alone."""

    name: ClassVar[TaskName] = "summarization"
    example: ClassVar[JsonValue] = "The torch was lit in London. Jim carried it on to Paris."
    answer_name: ClassVar[str] = "summary_text"
