"""What tasks that make one vector of a text share: prompts, pooling and the model's own modules."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
from typing_extensions import override

from flambeau.errors import ConfigError
from flambeau.tasks.base.length import (
    BESIDE_NAMES,
    LengthParameters,
    length_rule,
    translate_length,
)
from flambeau.tasks.base.parameters import BaseParameters
from flambeau.tasks.base.pooling import LIBRARY_MODES, PoolingMode, pool
from flambeau.tasks.base.records import Encoding, Head, RowOutputs, TextInput, WindowRule
from flambeau.tasks.base.sentence_modules import Array, read_sentence_modules, unit
from flambeau.tasks.base.task import AnswerOptions, ForwardTask, Inputs
from flambeau.types import JsonValue


class SentenceParameters(LengthParameters, frozen=True, kw_only=True):
    """`pooling` None: the model's own. `prompt` is put before each text, as it stands; `prompt_name`
    is one of the model's own. `dimensions`: only so many numbers of a vector, the first ones.
    """

    pooling: PoolingMode | None = None
    prompt: str | None = None
    prompt_name: str | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None


class SentenceTask(ForwardTask):
    """A task whose model's states become one vector for each text.

    Modules that sentence-transformers saved in the model's folder are followed; without any, a
    vector is the mean of the tokens' states.
    """

    outputs: ClassVar[tuple[str, ...]] = ("last_hidden_state",)
    Parameters: ClassVar[type[BaseParameters]] = SentenceParameters
    beside: ClassVar[frozenset[str]] = BESIDE_NAMES | {
        "dimensions",
        "pooling",
        "prompt",
        "prompt_name",
    }
    compact: ClassVar[bool] = True

    def __init__(self, head: Head) -> None:
        super().__init__(head)
        self.modules = read_sentence_modules(head)
        if head.pooling is not None:
            if self.modules.layers and len(self.modules.pooling) > 1:
                raise ConfigError(
                    f"The handler setting 'pooling' is {head.pooling!r}, but what comes after in"
                    f" this model needs all of {', '.join(self.modules.pooling)}. Remove it."
                )
            size = self.size(SentenceParameters(pooling=head.pooling))
            self.modules = msgspec.structs.replace(self.modules, pooling=(head.pooling,), size=size)
        self.max_length = self.modules.max_length

    @override
    def translate(self, given: dict[str, Any]) -> dict[str, Any]:
        """Also knows sentence-transformers' names of the poolings."""
        given = translate_length(given)
        pooling = given.get("pooling")
        if isinstance(pooling, str):
            given["pooling"] = LIBRARY_MODES.get(pooling, pooling)
        return given

    @override
    def window_rule(self, parameters: Any) -> WindowRule:
        return length_rule(parameters, self.truncations[0])

    @override
    def check(self, inputs: Inputs) -> None:
        assert isinstance(inputs.parameters, SentenceParameters)
        given, modules = inputs.parameters, self.modules
        name = given.prompt_name
        if name is not None and name not in modules.prompts:
            known = ", ".join(f'"{each}"' for each in modules.prompts) or "none"
            raise self.invalid(
                f"'prompt_name' is {name[:50]!r}, but the model has no such prompt (it has: {known})"
            )
        if given.pooling is not None and modules.layers and len(modules.pooling) > 1:
            raise self.invalid(
                "'pooling' cannot be chosen for this model: what comes after needs all of"
                f" {', '.join(modules.pooling)}"
            )
        size = self.size(given)
        if size is not None and (given.dimensions or 1) > size:
            raise self.invalid(
                f"'dimensions' must be a whole number from 1 to {size}, the size of the model's"
                f" vectors, not {given.dimensions}"
            )

    def size(self, parameters: SentenceParameters) -> int | None:
        """How many numbers the vectors have before `dimensions` cuts them, if that is known."""
        size, modes = self.modules.size, len(self.modules.pooling)
        if size is None or parameters.pooling is None or self.modules.layers:
            return size
        return size // modes

    @override
    def rows(self, entry: Any, parameters: Any) -> Sequence[TextInput]:
        return [self.row(text, parameters) for text in self.texts(entry)]

    @abstractmethod
    def texts(self, entry: Any) -> Sequence[str]:
        """The texts of an entry that get a vector each."""

    def row(self, text: str, parameters: SentenceParameters) -> TextInput:
        """A text as the model reads it: behind its prompt."""
        text = self.prompt(parameters) + text
        return TextInput(text.lower() if self.modules.lower_case else text)

    def prompt(self, parameters: SentenceParameters) -> str:
        """What is put before each text: what the request says, else what the model does."""
        if parameters.prompt is not None:
            return parameters.prompt
        name = parameters.prompt_name or self.modules.default_prompt
        return self.modules.prompts.get(name, "") if name is not None else ""

    def vector(self, row: RowOutputs, parameters: SentenceParameters) -> Array:
        """A text's vector, before it is normalised and cut to `dimensions`.

        That of several windows is their mean; a window of more tokens weighs more.
        """
        modules = self.modules
        modes = modules.pooling if parameters.pooling is None else (parameters.pooling,)
        prompt = "" if modules.include_prompt else self.prompt(parameters)
        prompt = prompt.lower() if modules.lower_case else prompt
        pooled, weights = [], []
        for window in row.windows:
            states = window.outputs["last_hidden_state"]
            first = _tokens_of_prompt(window.encoding, len(prompt)) if prompt else 0
            pooled.append(pool(states, modes, first))
            weights.append(max(1, len(states) - first))
        vector = pooled[0]
        if len(pooled) > 1:
            vector = np.average(pooled, axis=0, weights=weights).astype(np.float32)
        for layer in modules.layers:
            vector = layer(vector)
        return vector

    def embed(
        self, row: RowOutputs, parameters: SentenceParameters, normalize: bool | None = None
    ) -> Array:
        """A text's vector. `normalize` None: to length 1 where the model does that itself."""
        vector = self.vector(row, parameters)[: parameters.dimensions or self.modules.dimensions]
        return (
            unit(vector)
            if (self.modules.normalizes if normalize is None else normalize)
            else vector
        )

    @abstractmethod
    @override
    def postprocess(
        self, rows: Sequence[RowOutputs], entry: Any, options: AnswerOptions
    ) -> JsonValue:
        """The answer for one entry, ready for JSON."""


def _tokens_of_prompt(encoding: Encoding, length: int) -> int:
    """How many tokens of a window stand before the text itself: those of the prompt, and special
    ones before them; none where the prompt is not in this window. `length` is the prompt's.
    """
    found = False
    for index, ((_, end), part) in enumerate(zip(encoding.offsets, encoding.parts, strict=True)):
        if part == 0 and end > length:
            return index if found else 0
        found = found or part == 0
    return len(encoding.ids) if found else 0
