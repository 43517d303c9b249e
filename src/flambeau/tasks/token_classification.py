"""Token classification: the entities in a text, such as names, with their places."""

from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from typing_extensions import override

from flambeau.tasks.base import (
    AnswerOptions,
    BaseParameters,
    Encoding,
    ForwardTask,
    Inputs,
    RowOutputs,
    RowValue,
    TextInput,
    Vocabulary,
    Window,
    WindowRule,
    join_windows,
    softmax,
    text_tokens,
)
from flambeau.types import JsonValue, TaskName

Scores = npt.NDArray[np.float32]
"""[tokens or words, labels]: probabilities."""

Strategy = Literal["none", "simple", "first", "average", "max"]

_STARTING = frozenset("BSU")
_TAGGED = frozenset("BSUIELM")


class TokenParameters(BaseParameters, frozen=True, kw_only=True):
    """What a request may set.

    `aggregation_strategy`: how the labels of tokens become entities; None: not at all in the
    pipelines' form, else by word. `stride`: a text that is too long is read in windows that share
    so many tokens. `is_split_into_words`: the input is a list of words, joined by `delimiter`.
    """

    aggregation_strategy: Strategy | None = None
    ignore_labels: list[str] = msgspec.field(default_factory=lambda: ["O"])
    stride: Annotated[int, msgspec.Meta(ge=0)] | None = None
    is_split_into_words: bool = False
    delimiter: Annotated[str, msgspec.Meta(max_length=16)] = " "


class Task(ForwardTask):
    """Legacy answer: [token, label] pairs. Full answer: entities with character offsets.

    Where the model reads a text in windows, each token has the label that the window with the most
    of its surroundings gives it; entities are made of these once.
    """

    name: ClassVar[TaskName] = "token-classification"
    example: ClassVar[JsonValue] = "Ada Lovelace lived in London."
    has_labels: ClassVar[bool] = True
    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    Parameters: ClassVar[type[BaseParameters]] = TokenParameters

    @override
    def translate(self, given: dict[str, Any]) -> dict[str, Any]:
        """`grouped_entities` and `ignore_subwords` are how strategies were once chosen."""
        translated = dict(given)
        grouped = translated.pop("grouped_entities", None)
        words = translated.pop("ignore_subwords", None)
        for name, value in (("grouped_entities", grouped), ("ignore_subwords", words)):
            if value is not None and not isinstance(value, bool):
                raise self.invalid(f"'{name}' must be true or false")
        if grouped is not None or words is not None:
            kind = "first" if words else "simple"
            translated["aggregation_strategy"] = kind if grouped else "none"
        chosen = translated.get("aggregation_strategy")
        if isinstance(chosen, str):
            translated["aggregation_strategy"] = chosen.lower()
        return translated

    @override
    def parse(self, value: RowValue) -> Inputs:
        inputs = super().parse(value)
        parameters = inputs.parameters
        assert isinstance(parameters, TokenParameters)
        if not parameters.is_split_into_words:
            if any(entry.words is not None for entry in inputs.entries):
                raise self.invalid("a list of words needs the parameter 'is_split_into_words'")
            return inputs
        if not inputs.many:
            raise self.invalid("'is_split_into_words' needs a list of words, or a list of those")
        # A flat list is one text, and the pipeline's answer to it a list of one.
        split = [entry.words for entry in inputs.entries]
        if not any(split):
            split = [[entry.text for entry in inputs.entries]]
        if not all(split):
            raise self.invalid(
                "with 'is_split_into_words' a list has either words or lists of them"
            )
        entries = [_of_words(words, parameters.delimiter) for words in split if words]
        return msgspec.structs.replace(inputs, entries=entries)

    @override
    def read_entry(self, value: RowValue) -> TextInput:
        if isinstance(value, list):
            if not value:
                raise self.invalid("the list of words is empty")
            return _of_words([self.require_text(word, "a word") for word in value], " ")
        entry = super().read_entry(value)
        assert isinstance(entry, TextInput)
        if entry.pair is not None:
            raise self.invalid("there is no 'text_pair' in token classification")
        return entry

    @override
    def check(self, inputs: Inputs) -> None:
        parameters = inputs.parameters
        assert isinstance(parameters, TokenParameters)
        if parameters.stride is not None and parameters.truncation not in (None, "window"):
            raise self.invalid(
                f"'stride' reads a text in windows, but 'truncation' is \"{parameters.truncation}\""
            )

    @override
    def window_rule(self, parameters: TokenParameters) -> WindowRule:
        if parameters.stride is None:
            return super().window_rule(parameters)
        return WindowRule("window", stride=parameters.stride)

    @override
    def postprocess(
        self, rows: Sequence[RowOutputs], entry: TextInput, options: AnswerOptions
    ) -> JsonValue:
        window = join_windows(rows[0].windows)
        parameters: TokenParameters = options.parameters
        if options.shape == "legacy":
            best = window.outputs["logits"].argmax(axis=-1).tolist()
            return [
                [token, self.label(index)]
                for token, index in zip(window.encoding.tokens, best, strict=True)
            ]
        if options.pipeline or parameters.aggregation_strategy is not None:
            return self._as_pipeline(window, entry.text, parameters)
        entities = self.entities(window, entry.text, parameters.ignore_labels)
        return [entity.to_json(entry.text) for entity in entities]

    def entities(
        self, window: Window, text: str, ignored: Sequence[str] = ("O",)
    ) -> "list[Entity]":
        """Group words into entities. A word has the label and the score of its first token."""
        probabilities = softmax(window.outputs["logits"])
        best = probabilities.argmax(axis=-1)
        scores = np.take_along_axis(probabilities, best[:, None], axis=-1)[:, 0]
        entities: list[Entity] = []
        current: Entity | None = None
        for token in text_tokens(window.encoding, text, part=0):
            if not token.starts_word:
                if current is not None:
                    current.end = max(current.end, token.end)
                continue
            label = self.label(int(best[token.index]))
            starts, group = split_tag(label)
            if group in ignored or label in ignored:
                current = None
                continue
            if current is None or starts or group != current.group:
                current = Entity(group, token.start, token.end)
                entities.append(current)
            current.end = token.end
            current.word_scores.append(float(scores[token.index]))
        return entities

    def _as_pipeline(self, window: Window, text: str, parameters: TokenParameters) -> JsonValue:
        """What the token-classification pipeline of Transformers 4.57 makes of a text's tokens."""
        vocabulary = self.head.vocabulary
        assert vocabulary is not None, "a model that is served has a tokenizer"
        strategy: Strategy = parameters.aggregation_strategy or "none"
        pieces = _pieces(window.encoding, text, vocabulary)
        if not pieces:
            return []
        rows = [piece.place for piece in pieces]
        scores = softmax(window.outputs["logits"][rows]).astype(np.float32)
        if strategy == "none":
            return self._tokens(pieces, scores, parameters.ignore_labels)
        words = [[piece] for piece in pieces]
        if strategy != "simple":
            begins = [index for index, piece in enumerate(pieces) if not index or not piece.subword]
            words = [pieces[a:b] for a, b in pairwise([*begins, len(pieces)])]
            scores = _word_scores(scores, begins, strategy)
        return self._groups(words, scores, strategy, parameters.ignore_labels)

    def _tokens(self, pieces: "list[_Piece]", scores: Scores, ignored: Sequence[str]) -> JsonValue:
        best = scores.argmax(axis=-1).tolist()
        values = scores.max(axis=-1).tolist()
        return [
            {
                "entity": label,
                "score": score,
                "index": piece.place,
                "word": piece.word,
                "start": piece.start,
                "end": piece.end,
            }
            for piece, label, score in zip(pieces, map(self.label, best), values, strict=True)
            if label not in ignored
        ]

    def _groups(
        self,
        words: "list[list[_Piece]]",
        scores: Scores,
        strategy: Strategy,
        ignored: Sequence[str],
    ) -> JsonValue:
        """Neighbours with the same tag, unless the later one begins (B-), are one entity."""
        vocabulary = self.head.vocabulary
        assert vocabulary is not None
        labels = [self.label(index) for index in scores.argmax(axis=-1).tolist()]
        tags = [_iob_tag(label) for label in labels]
        begins = [
            index
            for index, (begin, tag) in enumerate(tags)
            if not index or begin or tag != tags[index - 1][1]
        ]
        means: list[float] = _means(scores.max(axis=-1), begins).tolist()
        entities: list[JsonValue] = []
        for mean, (first, behind) in zip(means, pairwise([*begins, len(words)]), strict=True):
            group = labels[first].split("-", 1)[-1]
            if group in ignored:
                continue
            spelt = [[piece.word for piece in word] for word in words[first:behind]]
            # The pipeline spells words first and then the entity, of the spelt words.
            parts = [*chain(*spelt)] if strategy == "simple" else map(vocabulary.spell, spelt)
            entities.append(
                {
                    "entity_group": group,
                    "score": mean,
                    "word": vocabulary.spell(list(parts)),
                    "start": words[first][0].start,
                    "end": words[behind - 1][-1].end,
                }
            )
        return entities


class _Piece(NamedTuple):
    """A token: its place in the row, how it is spelt, and its characters in the text.

    `subword`: it goes on with the word of the token before.
    """

    place: int
    word: str
    start: int
    end: int
    subword: bool


def _pieces(encoding: Encoding, text: str, vocabulary: Vocabulary) -> list[_Piece]:
    """All tokens but the special ones that the tokenizer added."""
    pieces = []
    unknown, marked = vocabulary.unknown_id, vocabulary.marks_subwords
    rows = zip(encoding.ids, encoding.offsets, encoding.parts, strict=True)
    for index, (token, (start, end), part) in enumerate(rows):
        if part is None:
            continue
        if token == unknown:
            pieces.append(_Piece(index, text[start:end], start, end, subword=False))
            continue
        word = vocabulary.token(token)
        if marked:
            subword = len(word) != end - start
        else:
            subword = start > 0 and " " not in text[start - 1 : start + 1]
        pieces.append(_Piece(index, word, start, end, subword))
    return pieces


def _word_scores(scores: Scores, begins: list[int], strategy: Strategy) -> Scores:
    """A row of scores for each word, of those of its tokens."""
    if strategy == "first":
        return scores[begins]
    if strategy == "average":
        return _means(scores, begins)
    best = scores.max(axis=-1)
    spans = pairwise([*begins, len(scores)])
    return scores[[first + int(best[first:behind].argmax()) for first, behind in spans]]


def _means(scores: Scores, begins: list[int]) -> Scores:
    """The mean over each stretch of the first axis; a stretch ends where the next begins."""
    counts = np.diff([*begins, len(scores)])
    sums = np.add.reduceat(scores, begins, axis=0)
    return np.asarray((sums.T / counts).T, dtype=np.float32)


def _iob_tag(label: str) -> tuple[bool, str]:
    """Whether a label begins an entity, and its tag, as the pipeline reads labels: B- and I-."""
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label


def _of_words(words: list[str], delimiter: str) -> TextInput:
    return TextInput(delimiter.join(words), None, words, len(delimiter))


class Entity(msgspec.Struct):
    """A stretch of words with one label. `start` and `end` count characters of the text."""

    group: str
    start: int
    end: int
    word_scores: list[float] = []

    def to_json(self, text: str) -> JsonValue:
        """The entity as clients see it; its score is the mean over its words."""
        return {
            "entity_group": self.group,
            "score": sum(self.word_scores) / len(self.word_scores),
            "word": text[self.start : self.end],
            "start": self.start,
            "end": self.end,
        }


def split_tag(label: str) -> tuple[bool, str]:
    """Whether a label opens an entity, and the entity's group: `B-PER` gives (True, "PER").

    Knows the prefixes of IOB2, BIOES and BILOU. A label without one continues its equals.
    """
    if len(label) > 2 and label[0] in _TAGGED and label[1] in "-_":
        return label[0] in _STARTING, label[2:]
    return False, label
