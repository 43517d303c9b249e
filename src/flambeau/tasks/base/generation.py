"""What tasks that generate text share."""

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from typing_extensions import override

from flambeau.tasks.base.parameters import BaseParameters
from flambeau.tasks.base.records import TextInput, Truncation
from flambeau.tasks.base.task import AnswerOptions, BaseTask
from flambeau.types import JsonValue

MIN_TEMPERATURE = 0.01
"""Scores are divided by it: with much smaller ones they overflow, and nothing can be drawn."""


class GenerationParameters(BaseParameters, frozen=True, kw_only=True):
    """What a request may set. None: the model's own value. `seed` makes sampling repeatable."""

    max_new_tokens: Annotated[int, msgspec.Meta(ge=1, le=100_000)] | None = None
    do_sample: bool | None = None
    temperature: (
        Annotated[
            float,
            msgspec.Meta(
                ge=MIN_TEMPERATURE,
                le=100,
                description=f"0 (greedy) or a number from {MIN_TEMPERATURE} to 100",
            ),
        ]
        | None
    ) = None
    top_k: (
        Annotated[
            int,
            msgspec.Meta(
                ge=0,
                le=1_000_000,
                description="a whole number from 0 (all tokens) to 1000000",
            ),
        ]
        | None
    ) = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None


class Continuation(msgspec.Struct, frozen=True):
    """What was generated after a prompt. `finish_reason`: an end token, or out of room."""

    text: str
    prompt_tokens: int
    generated_tokens: int
    finish_reason: Literal["stop", "length"]


class GenerationTask(BaseTask):
    """A task whose model generates tokens after a prompt."""

    truncations: ClassVar[tuple[Truncation, ...]] = ("cut", "refuse")
    Parameters: ClassVar[type[BaseParameters]] = GenerationParameters

    @override
    def translate(self, given: dict[str, Any]) -> dict[str, Any]:
        """Temperature 0 means greedy, as OpenAI's clients have it."""
        temperature = given.get("temperature")
        if isinstance(temperature, int | float) and temperature is not False and temperature == 0:
            return given | {"temperature": None, "do_sample": False}
        return given

    @abstractmethod
    def postprocess(
        self, continuation: Continuation, entry: TextInput, options: AnswerOptions
    ) -> JsonValue:
        """The answer for one prompt, ready for JSON."""
