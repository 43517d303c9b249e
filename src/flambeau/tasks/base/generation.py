"""What tasks that generate text share: parameters, prompts, continuations."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from typing_extensions import override

from flambeau.tasks.base.parameters import BaseParameters
from flambeau.tasks.base.records import Entry, Truncation
from flambeau.tasks.base.task import AnswerOptions, BaseTask, Inputs
from flambeau.types import JsonValue

MIN_TEMPERATURE = 0.01
"""Scores are divided by it: with much smaller ones they overflow, and nothing can be drawn."""
MAX_SEQUENCES = 32
"""The most beams, and the most sequences for one prompt."""
_MAX_STOPS = 16
_MAX_STOP_CHARS = 256

_Length = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
_Least = Annotated[int, msgspec.Meta(ge=0, le=100_000)]
_TokenId = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=MAX_SEQUENCES)]
_Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
_Stop = Annotated[str, msgspec.Meta(min_length=1, max_length=_MAX_STOP_CHARS)]
_Stops = Annotated[
    _Stop | Annotated[list[_Stop], msgspec.Meta(max_length=_MAX_STOPS)],
    msgspec.Meta(
        description=f"a text of 1 to {_MAX_STOP_CHARS} characters, or a list of at most"
        f" {_MAX_STOPS} of them"
    ),
]
_BadWords = Annotated[
    tuple[Annotated[tuple[_TokenId, ...], msgspec.Meta(min_length=1, max_length=64)], ...],
    msgspec.Meta(
        min_length=1,
        max_length=1_000,
        description="a list of 1 to 1000 lists of 1 to 64 token ids",
    ),
]
_Temperature = Annotated[
    float,
    msgspec.Meta(
        ge=MIN_TEMPERATURE,
        le=100,
        description=f"0 (greedy) or a number from {MIN_TEMPERATURE} to 100",
    ),
]
_TopK = Annotated[
    int,
    msgspec.Meta(ge=0, le=1_000_000, description="a whole number from 0 (all tokens) to 1000000"),
]


class GenerationParameters(BaseParameters, frozen=True, kw_only=True):
    """What a request may set. None: the model's own value.

    The names are Transformers'. `max_length` and `min_length` count the prompt too where the model
    has no encoder. `stop` ends the text before a stop string, `stop_strings` behind it. `seed` makes
    sampling repeatable. `stream` sends tokens as they come.
    """

    max_new_tokens: _Length | None = None
    max_length: _Length | None = None
    min_new_tokens: _Least | None = None
    min_length: _Least | None = None
    do_sample: bool | None = None
    temperature: _Temperature | None = None
    top_k: _TopK | None = None
    top_p: _Share | None = None
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    typical_p: _Share | None = None
    repetition_penalty: Annotated[float, msgspec.Meta(ge=0.01, le=100)] | None = None
    no_repeat_ngram_size: Annotated[int, msgspec.Meta(ge=0, le=1_000)] | None = None
    num_beams: _Count | None = None
    num_return_sequences: _Count | None = None
    length_penalty: Annotated[float, msgspec.Meta(ge=-100, le=100)] | None = None
    early_stopping: bool | Literal["never"] | None = None
    bad_words_ids: _BadWords | None = None
    stop: _Stops | None = None
    stop_strings: _Stops | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    clean_up_tokenization_spaces: bool | None = None
    stream: bool = False

    def settings(self) -> dict[str, Any]:
        """What was set of that which the engine is told; lengths are not among it."""
        return {name: value for name in SETTINGS if (value := getattr(self, name)) is not None}


SETTINGS = (
    "min_new_tokens",
    "min_length",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "num_beams",
    "num_return_sequences",
    "length_penalty",
    "early_stopping",
    "bad_words_ids",
    "seed",
)
"""Parameters that are the engine's settings of the same name."""

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p")


class Chat(Entry, frozen=True):
    """A conversation: the messages as they came, each with `role` and `content`."""

    messages: list[dict[str, JsonValue]]

    @property
    def continues(self) -> bool:
        """Whether the model goes on with the last message, instead of giving one of its own."""
        return self.messages[-1]["role"] == "assistant"


class Continuation(msgspec.Struct, frozen=True):
    """What was generated after a prompt.

    `finish_reason`: an end token or a stop string, or out of room. `stop_string`: the one it was.
    """

    text: str
    prompt_tokens: int
    generated_tokens: int
    finish_reason: Literal["stop", "length"]
    stop_string: str | None = None


class GenerationTask(BaseTask):
    """A task whose model generates tokens after a prompt."""

    truncations: ClassVar[tuple[Truncation, ...]] = ("cut", "refuse")
    Parameters: ClassVar[type[BaseParameters]] = GenerationParameters
    aliases: ClassVar[Mapping[str, str]] = {"stop_sequence": "stop_strings"}
    answer_name: ClassVar[str] = "generated_text"
    """Under which key answers have the text."""
    encodes: ClassVar[bool] = False
    """Whether an encoder reads the prompt, so that it takes no room from what is generated."""
    sampling_asks: ClassVar[bool] = False
    """Whether who sets a sampling parameter asks for sampling."""
    pipeline_defaults: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 256}
    """Where neither the request nor the model says: what the Transformers pipelines would take."""

    @override
    def translate(self, given: dict[str, Any]) -> dict[str, Any]:
        """Temperature 0 means greedy, as OpenAI's clients have it."""
        temperature = given.get("temperature")
        if isinstance(temperature, int | float) and temperature is not False and temperature == 0:
            return given | {"temperature": None, "do_sample": False}
        return given

    @override
    def check(self, inputs: Inputs) -> None:
        parameters: Any = inputs.parameters
        count = parameters.num_return_sequences or 1
        beams = parameters.num_beams
        if count > 1 and beams is not None and 1 < beams < count:
            raise self.invalid(
                f"'num_return_sequences' must be at most 'num_beams', which is {beams}, not {count}"
            )
        if parameters.stream and len(inputs.entries) > 1:
            raise self.invalid("'stream' must be false for a list: send each input by itself")
        if parameters.stream and (count > 1 or (beams or 1) > 1):
            raise self.invalid(
                "'stream' must be false with several beams or sequences, whose tokens are not"
                " settled before the end"
            )
        for least, most in (("min_new_tokens", "max_new_tokens"), ("min_length", "max_length")):
            low, high = getattr(parameters, least), getattr(parameters, most)
            if low is not None and high is not None and low > high:
                raise self.invalid(
                    f"'{least}' must be at most '{most}', which is {high}, not {low}"
                )

    def defaults(self, parameters: Any) -> dict[str, Any]:  # noqa: ARG002 - for tasks that need it
        """Settings that the model's configuration has for this task, by Transformers' names."""
        return {}

    def cleans(self, options: AnswerOptions) -> bool:
        """Whether spaces before punctuation marks are taken out of the text."""
        return bool(options.parameters.clean_up_tokenization_spaces)

    def whole(self, entry: Any, text: str, options: AnswerOptions) -> JsonValue:  # noqa: ARG002 - as above
        """A continuation as answers have it."""
        return text

    def postprocess(
        self, continuations: Sequence[Continuation], entry: Any, options: AnswerOptions
    ) -> JsonValue:
        """The answer for one entry, ready for JSON; at least one continuation."""
        texts = [self.whole(entry, each.text, options) for each in continuations]
        if options.shape == "legacy":
            return texts[0]
        if options.pipeline:
            return [{self.answer_name: text} for text in texts]
        told: list[JsonValue] = [
            {
                self.answer_name: text,
                "prompt_tokens": each.prompt_tokens,
                "generated_tokens": each.generated_tokens,
                "finish_reason": each.finish_reason,
            }
            for text, each in zip(texts, continuations, strict=True)
        ]
        return told if len(told) > 1 else told[0]
