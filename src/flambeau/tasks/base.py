"""What every task shares: the records, the reading of request bodies, the base class.

A task turns one row of a request into texts (`parse`), says how they are tokenised
(`truncation`), and turns a model's arrays into an answer (`postprocess`). It never sees a
tokenizer, a framework or a request: it is pure Python and numpy.

The smallest task:

>>> class ShoutTask(ForwardTask):
...     name = "text-classification"
...     example = "hello"
...     outputs = ("logits",)
...     def postprocess(self, outputs, encoding, entry, options):
...         return entry.text.upper()
>>> task = ShoutTask(Head(labels=["yes", "no"]))
>>> task.parse(b'{"text": "hi"}').entries[0].text
'hi'
"""

import ast
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from typing_extensions import override

from flambeau.errors import ErrorKind, PredictionError
from flambeau.types import JsonValue, OutputShape, TaskName

MAX_ENTRIES = 1_000
MAX_LITERAL_CHARS = 200_000
MAX_LITERAL_BRACKETS = 50
MAX_LITERAL_SIGNS = 50
MIN_TEMPERATURE = 0.01
"""Scores are divided by it: with much smaller ones they overflow, and nothing can be drawn."""

RowValue = object
"""What a row of a request holds: str, bytes, or whatever JSON gave. Not yet trusted."""
Arrays = Mapping[str, npt.NDArray[np.float32]]
"""One item's model outputs by name, without padding."""


class Head(msgspec.Struct, frozen=True):
    """What a task must know about the model's last layer.

    `problem_type` is the configuration's value: `single_label_classification`,
    `multi_label_classification`, `regression` or None.
    """

    labels: list[str] = []
    problem_type: str | None = None


class TextInput(msgspec.Struct, frozen=True):
    """One thing to predict: a text, or a pair such as question and context."""

    text: str
    pair: str | None = None


class Inputs(msgspec.Struct, frozen=True):
    """What one request asks for. `many`: it sent a list and gets a list."""

    entries: list[TextInput]
    many: bool = False
    parameters: dict[str, JsonValue] = {}


class Encoding(msgspec.Struct, frozen=True):
    """One tokenised entry; all lists have one element per token.

    `offsets` are (start, end) in characters of the part that the token comes from; `words` is the
    pre-tokenizer's word number and `parts` is 0 for the text and 1 for the pair, both None for
    special tokens. `truncated` says that the text was longer than the model reads.
    """

    ids: list[int]
    type_ids: list[int]
    tokens: list[str]
    offsets: list[tuple[int, int]]
    words: list[int | None]
    parts: list[int | None]
    truncated: bool = False


class AnswerOptions(msgspec.Struct, frozen=True):
    """How an answer is to look."""

    shape: OutputShape = "full"
    parameters: dict[str, JsonValue] = {}


class BaseTask(ABC):
    """What all tasks have. A task derives from `ForwardTask` or `GenerationTask`."""

    name: ClassVar[TaskName]
    example: ClassVar[JsonValue]
    """An input that `parse` accepts: for warm-up, documentation and the web page."""
    accepts: ClassVar[str] = 'plain text, {"text": "..."}, or a JSON list of texts'
    truncation: ClassVar[Literal["longest_first", "only_second"]] = "longest_first"
    truncation_side: ClassVar[Literal["left", "right"]] = "right"
    """The end of a too long text that is cut off."""
    parameters: ClassVar[frozenset[str]] = frozenset()
    """The names that a request may set under `parameters`."""

    def __init__(self, head: Head) -> None:
        self.head = head

    def parse(self, value: RowValue) -> Inputs:
        """Read one row's value: bytes, str, or an object or list that was JSON.

        Raises `PredictionError` (`INVALID_INPUT`) that says what is wrong and shows the form.
        """
        if isinstance(value, bytes | bytearray | memoryview):
            value = decode_text(bytes(value))
        if isinstance(value, str):
            value = parse_structured_text(value)
        parameters: dict[str, JsonValue] = {}
        if isinstance(value, dict):
            parameters = self._read_parameters(value.get("parameters"))
            value = value.get("inputs", value)
        if isinstance(value, list | tuple):
            return Inputs(self._read_list(list(value)), many=True, parameters=parameters)
        return Inputs([self.read_entry(value)], parameters=parameters)

    def read_entry(self, value: RowValue) -> TextInput:
        """Read one text, or an object with `text` (and `text_pair`). May raise as `parse`."""
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

    def _read_list(self, values: list[RowValue]) -> list[TextInput]:
        if not values:
            raise self.invalid("the list is empty")
        if len(values) > MAX_ENTRIES:
            raise self.invalid(
                f"the list has {len(values)} entries; one request takes at most {MAX_ENTRIES}"
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

    def _read_parameters(self, value: RowValue) -> dict[str, JsonValue]:
        """Check the names under `parameters`. A null stands for the default."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.invalid(f"'parameters' must be an object, not {json_type(value)}")
        given = {str(name): item for name, item in value.items() if item is not None}
        unknown = sorted(given.keys() - self.parameters)
        if unknown:
            known = ", ".join(sorted(self.parameters)) or "none"
            raise self.invalid(f"unknown parameters {', '.join(unknown)[:200]} (known: {known})")
        return given


class ForwardTask(BaseTask):
    """A task whose model answers in one forward pass."""

    outputs: ClassVar[tuple[str, ...]]
    """The names of the arrays that the engine gives, in the order of the model's output."""

    @abstractmethod
    def postprocess(
        self, outputs: Arrays, encoding: Encoding, entry: TextInput, options: AnswerOptions
    ) -> JsonValue:
        """The answer for one entry, ready for JSON."""


class GenerationParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a request may set. None: the model's own value. `seed` makes sampling repeatable."""

    max_new_tokens: Annotated[int, msgspec.Meta(ge=1, le=100_000)] | None = None
    do_sample: bool | None = None
    temperature: Annotated[float, msgspec.Meta(ge=MIN_TEMPERATURE, le=100)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] | None = None
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

    parameters: ClassVar[frozenset[str]] = frozenset(GenerationParameters.__struct_fields__)

    @override
    def parse(self, value: RowValue) -> Inputs:
        inputs = super().parse(value)
        self.generation_parameters(inputs.parameters)
        return inputs

    @abstractmethod
    def generation_parameters(self, parameters: dict[str, JsonValue]) -> GenerationParameters:
        """Check the values under `parameters`; temperature 0 gives `do_sample` False.

        Raises `PredictionError` (`INVALID_INPUT`) that names the parameter, value and range.
        """

    @abstractmethod
    def postprocess(
        self, continuation: Continuation, entry: TextInput, options: AnswerOptions
    ) -> JsonValue:
        """The answer for one prompt, ready for JSON."""


_TASK_OF_HEAD: tuple[tuple[str, TaskName], ...] = (
    ("ForSequenceClassification", "text-classification"),
    ("ForTokenClassification", "token-classification"),
    ("ForQuestionAnswering", "question-answering"),
    ("ForQuestionAnsweringSimple", "question-answering"),
    ("ForCausalLM", "text-generation"),
    ("LMHeadModel", "text-generation"),
)


def infer_task(config: Mapping[str, object]) -> TaskName | None:
    """The task of a model, from the class names under `architectures` of its `config.json`."""
    architectures = config.get("architectures")
    for architecture in architectures if isinstance(architectures, list) else []:
        for ending, task in _TASK_OF_HEAD:
            if isinstance(architecture, str) and architecture.endswith(ending):
                return task
    return None


def decode_text(value: bytes) -> str:
    """UTF-8 to text. Raises `PredictionError` that names the place of the first wrong byte."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PredictionError(
            f"Invalid input: the text is not UTF-8 (byte {error.start} is 0x{value[error.start]:02x})."
            " Send it encoded as UTF-8.",
            ErrorKind.INVALID_INPUT,
        ) from None


def require_unicode(text: str) -> None:
    """Raise `PredictionError` for half a surrogate pair, which JSON escapes can smuggle in."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PredictionError(
            f"Invalid input: character {error.start} of the text is half of a surrogate pair."
            " Send a whole one.",
            ErrorKind.INVALID_INPUT,
        ) from None


def parse_structured_text(text: str) -> RowValue:
    """The object or list that a text stands for, or the text itself.

    JSON is tried first. Then a Python literal such as `{'text': '...'}`, which is what clients of
    TorchServe's Transformers example send; only for an object and only within limits, since
    Python's parser needs far more memory than the text has bytes.
    """
    start = text.lstrip()[:1]
    if start not in ("{", "["):
        return text
    try:
        value: RowValue = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if value is None and start == "{" and _is_small_literal(text):
        try:
            value = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            value = None
    return value if isinstance(value, dict | list) else text


# The closing quote is optional, so that an unclosed string is consumed once and never rescanned.
_QUOTED = re.compile(r"'(?:\\.|[^'\\])*'?|\"(?:\\.|[^\"\\])*\"?", re.DOTALL)


def _is_small_literal(text: str) -> bool:
    """Whether a literal's structure outside its strings is small enough to parse safely."""
    if len(text) > MAX_LITERAL_CHARS:
        return False
    structure = _QUOTED.sub("", text)
    brackets = sum(map(structure.count, "([{"))
    signs = sum(map(structure.count, "+-~"))
    return brackets <= MAX_LITERAL_BRACKETS and signs <= MAX_LITERAL_SIGNS


def json_type(value: object) -> str:
    """The JSON name of a value's type, with its article."""
    if isinstance(value, bool):
        return "a boolean"
    if value is None:
        return "null"
    names = {int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def softmax(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Probabilities over the last axis, computed in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def sigmoid(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Independent probabilities, computed in float64 and without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64))))


class Token(msgspec.Struct, frozen=True):
    """A token that stands for characters of the input: its place in the row and its span."""

    index: int
    start: int
    end: int
    starts_word: bool


def text_tokens(encoding: Encoding, text: str, part: int) -> list[Token]:
    """The tokens of part 0 (text) or 1 (pair) in order, without special and empty ones.

    Spans lose the white space at their ends, which some tokenizers count in. A word starts where
    the pre-tokenizer says so and after every white space, since some pre-tokenizers take a whole
    text for one word.
    """
    tokens: list[Token] = []
    previous_word: int | None = None
    rows = zip(encoding.offsets, encoding.words, encoding.parts, strict=True)
    for index, ((start, end), word, token_part) in enumerate(rows):
        if token_part != part:
            continue
        while start < end and text[start].isspace():
            start += 1
        while end > start and text[end - 1].isspace():
            end -= 1
        if start == end:
            continue
        after_space = start == 0 or text[start - 1].isspace()
        # A character of several tokens repeats its span: only its first token can start a word.
        repeated = bool(tokens) and tokens[-1].start == start
        starts_word = not tokens or (not repeated and (after_space or word != previous_word))
        tokens.append(Token(index, start, end, starts_word))
        previous_word = word
    return tokens
