"""The classes that every task derives from.

A task turns one row of a request into entries (`parse`), says what is tokenised for each (`rows`,
`window_rule`), and turns a model's arrays into an answer (`postprocess`). It never sees a
tokenizer, a framework or a request: it is pure Python and numpy.

The smallest task:

>>> class ShoutTask(ForwardTask):
...     name = "text-classification"
...     example = "hello"
...     outputs = ("logits",)
...     def postprocess(self, rows, entry, options):
...         return rows[0].row.text.upper()
>>> task = ShoutTask(Head(labels=["yes", "no"]))
>>> task.parse(b'{"text": "hi"}').entries[0].text
'hi'
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from flambeau.errors import ErrorKind, PredictionError
from flambeau.tasks.base.parameters import BaseParameters, WrongParameterError, read_parameters
from flambeau.tasks.base.parsing import (
    RowValue,
    decode_text,
    is_unicode,
    json_type,
    parse_structured_text,
    require_unicode,
)
from flambeau.tasks.base.records import (
    AudioInput,
    Encoding,
    Entry,
    Head,
    ImageInput,
    PairTruncation,
    Row,
    RowOutputs,
    TextInput,
    Truncation,
    WindowRule,
)
from flambeau.types import JsonValue, OutputShape, TaskName

MAX_ENTRIES = 1_000

InputKind = Literal["text", "image", "audio"]
"""What a model reads."""


_TOKENIZERS_TRUNCATION: dict[str | bool, Truncation] = {
    True: "cut",
    False: "refuse",
    "longest_first": "cut",
    "only_first": "cut",
    "only_second": "cut",
    "do_not_truncate": "refuse",
}
"""`truncation` as the pipelines passed it on to a tokenizer."""


class Inputs(msgspec.Struct, frozen=True):
    """What one request asks for.

    `many`: it sent a list and gets a list. `pipeline`: it came in the form of the Hugging Face
    Inference API, `{"inputs": …}`, and gets what a Transformers pipeline would give.
    """

    entries: Sequence[Any]
    many: bool = False
    parameters: BaseParameters = BaseParameters()
    pipeline: bool = False

    def options(self, shape: OutputShape) -> "AnswerOptions":
        """How its answers are to look, in this shape."""
        return AnswerOptions(shape, self.parameters, self.pipeline, self.many)


class AnswerOptions(msgspec.Struct, frozen=True):
    """How an answer is to look. `parameters` are of the task's own class; the rest as `Inputs`."""

    shape: OutputShape = "full"
    parameters: Any = BaseParameters()
    pipeline: bool = False
    many: bool = False


class BaseTask(ABC):
    """What all tasks have. A task derives from `ForwardTask` or `GenerationTask`."""

    name: ClassVar[TaskName]
    example: ClassVar[JsonValue]
    """An input that `parse` accepts: for warm-up, documentation and the web page."""
    accepts: ClassVar[str] = 'plain text, {"text": "..."}, or a JSON list of texts'
    reads: ClassVar[InputKind] = "text"
    max_entries: ClassVar[int] = MAX_ENTRIES
    """The most entries in a list."""
    has_labels: ClassVar[bool] = False
    """Whether the last axis of the model's `logits` are labels, which may have names."""
    truncation: ClassVar[PairTruncation] = "longest_first"
    truncation_side: ClassVar[Literal["left", "right"]] = "right"
    """The end of a too long text that is cut off."""
    truncations: ClassVar[tuple[Truncation, ...]] = ("cut", "window", "refuse")
    """What `parameters.truncation` may be; the first is the default."""
    Parameters: ClassVar[type[BaseParameters]] = BaseParameters
    """What a request may set under `parameters`."""
    beside: ClassVar[frozenset[str]] = frozenset()
    """Parameters that may stand beside the input, too, where other servers' clients put them."""
    aliases: ClassVar[Mapping[str, str]] = {}
    """Other names of parameters, such as older ones; the name itself goes before them."""
    unwraps_one: ClassVar[bool] = False
    """Whether the pipeline takes a list of one entry for the entry."""
    compact: ClassVar[bool] = False
    """Whether answers are mostly numbers: they are sent as JSON without spaces and lines."""
    max_length: int | None = None
    """The longest row that the model was made for, where its folder says so apart from the rest."""

    def __init__(self, head: Head) -> None:
        """Raises `ConfigError` or `LoadError` where the model cannot do the task."""
        self.head = head

    def sample(self) -> JsonValue:
        """The example as this model takes it."""
        return self.example

    def parse(self, value: RowValue) -> Inputs:
        """Read one row's value: bytes, str, or an object or list that was JSON.

        Raises `PredictionError` (`INVALID_INPUT`) that says what is wrong and shows the form.
        """
        if isinstance(value, bytes | bytearray | memoryview):
            value = decode_text(bytes(value))
        if isinstance(value, str):
            value = parse_structured_text(value)
        given: RowValue = None
        pipeline = False
        if isinstance(value, dict):
            given = self._gather(value)
            pipeline = "inputs" in value
            value = value["inputs"] if pipeline else value
        value = self.unfold(value)
        parameters = self.read_parameters(given)
        many = self.is_many(value)
        entries = self._read_list(list(value)) if many else [self.read_entry(value)]  # type: ignore[call-overload]
        inputs = Inputs(entries, many, parameters, pipeline)
        self.check(inputs)
        return inputs

    def unfold(self, value: RowValue) -> RowValue:
        """A value that stands for a list, such as an object with lists in it, as that list."""
        return value

    def is_many(self, value: RowValue) -> bool:
        """Whether a value is a list of entries and not one."""
        return isinstance(value, list | tuple)

    def read_parameters(self, given: RowValue) -> Any:
        """The values under `parameters`, as the task's own class. May raise as `parse`."""
        if given is None:
            given = {}
        if isinstance(given, str):
            given = parse_structured_text(given)  # a form's fields are texts
        if not isinstance(given, dict):
            raise self.invalid(f"'parameters' must be an object, not {json_type(given)}")
        named = {str(name): value for name, value in given.items()}
        if not is_unicode(named):
            raise self.invalid("'parameters' has half of a surrogate pair; send a whole one")
        for alias, name in self.aliases.items():
            if alias in named:
                value = named.pop(alias)
                named.setdefault(name, value)
        translated = self.translate(named)
        known_as = translated.get("truncation")
        if isinstance(known_as, str | bool):
            truncation = _TOKENIZERS_TRUNCATION.get(known_as, known_as)
            translated = translated | {"truncation": truncation}
        try:
            read = read_parameters(self.Parameters, translated)
        except WrongParameterError as error:
            raise self.invalid(str(error)) from None
        if read.truncation not in (None, *self.truncations):
            allowed = " or ".join(f'"{each}"' for each in self.truncations)
            raise self.invalid(f"'truncation' must be {allowed}, not \"{read.truncation}\"")
        return read

    def translate(self, given: dict[str, Any]) -> dict[str, Any]:
        """Parameters whose names or values stand for others, such as those of other servers."""
        return given

    def check(self, inputs: Inputs) -> None:  # noqa: B027 - most have nothing to check
        """What entries and parameters must be together. May raise as `parse`."""

    def window_rule(self, parameters: Any) -> WindowRule:
        """How rows that are too long are brought to size."""
        return WindowRule(parameters.truncation or self.truncations[0])

    def assemble(self, answers: list[JsonValue], options: AnswerOptions) -> JsonValue:
        """A request's answer from those of its entries."""
        unwrapped = self.unwraps_one and options.pipeline and len(answers) == 1
        return answers if options.many and not unwrapped else answers[0]

    def rows(self, entry: Any, parameters: Any) -> Sequence[Row]:  # noqa: ARG002 - for tasks that need it
        """What the model reads for one entry; at least one row."""
        assert isinstance(entry, TextInput | ImageInput | AudioInput)
        return [entry]

    def read_entry(self, value: RowValue) -> Entry:
        """Read one text, or an object with `text` (and `text_pair`). May raise as `parse`.

        Tasks that read something else override it, and `rows`.
        """
        pair = None
        if isinstance(value, dict):
            pair = value.get("text_pair")
            if pair is not None and not isinstance(pair, str):
                raise self.invalid(f"'text_pair' must be a string, not {json_type(pair)}")
            texts = (value.get(name) for name in ("text", "inputs", "data"))
            value = next((text for text in texts if text is not None), None)
            if value is None:
                raise self.invalid("the object has no 'text'")
        return TextInput(self.require_text(value, "the text"), pair)

    def require_text(self, value: RowValue, what: str) -> str:
        """`value` as a text that has something in it, else `PredictionError`."""
        if isinstance(value, bytes | bytearray):
            value = decode_text(bytes(value))
        if not isinstance(value, str):
            raise self.invalid(f"{what} must be a string, not {json_type(value)}")
        if not value.strip():
            raise self.invalid(f"{what} is empty")
        if not value.isascii():
            require_unicode(value)
        return value

    def invalid(self, problem: str) -> PredictionError:
        """The error of a wrong input: the problem and the accepted forms."""
        return PredictionError(
            f"Invalid input: {problem}. The {self.name} model takes {self.accepts}.",
            ErrorKind.INVALID_INPUT,
        )

    def label(self, index: int) -> str:
        """The name of class `index`; `LABEL_n`, as in Transformers, where it has none."""
        labels = self.head.labels
        return labels[index] if index < len(labels) else f"LABEL_{index}"

    def named(self, scores: npt.NDArray[np.floating], chosen: Sequence[int]) -> list[JsonValue]:
        """These labels with their scores."""
        values = scores.tolist()
        return [{"label": self.label(index), "score": values[index]} for index in chosen]

    def require_texts(self, value: RowValue, name: str) -> list[str]:
        """`value` as a list of texts, none empty, else `PredictionError` that calls it `name`."""
        if not isinstance(value, list | tuple):
            raise self.invalid(f"'{name}' must be a list of texts, not {json_type(value)}")
        if not value:
            raise self.invalid(f"'{name}' is empty")
        if len(value) > MAX_ENTRIES:
            raise self.invalid(
                f"'{name}' has {len(value)} texts; one request takes at most {MAX_ENTRIES}"
            )
        return [
            self.require_text(text, f"entry {index} of '{name}'")
            for index, text in enumerate(value)
        ]

    def _gather(self, value: dict[Any, RowValue]) -> RowValue:
        """The parameters of an object, with those that stand beside the input."""
        given = value.get("parameters")
        beside = {name: value[name] for name in self.beside if name in value}
        if not beside or not (given is None or isinstance(given, dict)):
            return given
        return beside | (given or {})

    def _read_list(self, values: list[RowValue]) -> list[Entry]:
        if not values:
            raise self.invalid("the list is empty")
        if len(values) > self.max_entries:
            raise self.invalid(
                f"the list has {len(values)} entries; one request takes at most {self.max_entries}"
            )
        entries = []
        for index, value in enumerate(values):
            try:
                entries.append(self.read_entry(value))
            except PredictionError as error:
                detail = error.message.removeprefix("Invalid input: ")
                raise PredictionError(
                    f"Invalid input in entry {index} of the list: {detail}", error.kind
                ) from None
        return entries


class ForwardTask(BaseTask):
    """A task whose model answers in one forward pass per row."""

    outputs: ClassVar[tuple[str, ...]]
    """The names of the arrays that the engine gives, in the order of the model's output."""

    def wanted(self, encoding: Encoding) -> list[int] | None:  # noqa: ARG002 - as above
        """The tokens whose outputs are needed, where the model gives some per token; None: all.

        `postprocess` gets one row of outputs for each of them. For models that give many numbers.
        """
        return None

    @abstractmethod
    def postprocess(
        self, rows: Sequence[RowOutputs], entry: Any, options: AnswerOptions
    ) -> JsonValue:
        """The answer for one entry, ready for JSON; `rows` are those of `rows`, in order."""
