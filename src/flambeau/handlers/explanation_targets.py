"""What an explanation explains: the values of a model's output that stand for an answer.

By default it is the answer that a prediction gives, in the full shape; a request's `target` names
another. Values are logits, as in captum's and TorchServe's examples: a score of near 1 has no slope.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from flambeau.engines.attribution import Place, Target
from flambeau.errors import PredictionError
from flambeau.tasks.base import (
    Arrays,
    Encoding,
    ForwardTask,
    TextInput,
    Token,
    shown,
    softmax,
    text_tokens,
)
from flambeau.types import JsonValue

MAX_SHOWN = 50


class Explained(msgspec.Struct, frozen=True):
    """One answer to explain: how it is told, its score, and the values that stand for it.

    `ends` are the start's and the end's values apart, for the legacy answers of question answering.
    """

    told: JsonValue
    score: float | None
    target: Target
    ends: tuple[Target, Target] | None = None


class Predicted(msgspec.Struct, frozen=True):
    """A row, what the model made of it, and the answer of its prediction in the full shape."""

    row: TextInput
    encoding: Encoding
    outputs: Arrays
    answer: Any


Finder = Callable[[ForwardTask, Predicted, object], list[Explained]]


def find_targets(task: ForwardTask, predicted: Predicted, asked: object) -> list[Explained]:
    """What to explain; `asked` is the request's `target`, None for what the model predicts.

    Raises `PredictionError` (`INVALID_INPUT`) for a target that there is not.
    """
    return _FINDERS[task.name](task, predicted, asked)


def can_explain(task: object) -> bool:
    """Whether there are explanations for the task's models."""
    return isinstance(task, ForwardTask) and task.name in _FINDERS


def _of_text(task: ForwardTask, predicted: Predicted, asked: object) -> list[Explained]:
    """A label by name or number; the best one."""
    count = len(predicted.outputs["logits"])
    scores = {each["label"]: each["score"] for each in predicted.answer}
    index = int(np.argmax(predicted.outputs["logits"]))
    if asked is not None:
        index = _label_index(task, count, asked)
    label = task.label(index)
    return [Explained(label, scores.get(label), (Place("logits", (index,)),))]


def _of_tokens(task: ForwardTask, predicted: Predicted, asked: object) -> list[Explained]:
    """A word, a stretch of words, or `[token, label]`; all entities."""
    text, logits = predicted.row.text, predicted.outputs["logits"]
    if asked is None:
        return [
            _stretch(task, predicted, (each["start"], each["end"]), entity=each)
            for each in predicted.answer
        ]
    if isinstance(asked, list | tuple):
        if len(asked) != 2:
            raise _wrong(task, asked, _WORDS_ALLOWED)
        token = _index(task, asked[0], len(logits), asked, _WORDS_ALLOWED)
        label = _label_index(task, logits.shape[-1], asked[1])
        told: JsonValue = {
            "token": predicted.encoding.tokens[token],
            "index": token,
            "label": task.label(label),
        }
        score = float(softmax(logits[token])[label])
        return [Explained(told, score, (Place("logits", (token, label)),))]
    wanted: Mapping[str, object] = {"word": asked} if isinstance(asked, str) else _object(asked)
    span = _span(wanted, text)
    if span is None or not wanted.keys() <= {"word", "start", "end", "label"}:
        raise _wrong(task, asked, _WORDS_ALLOWED)
    given = wanted.get("label")
    label_index = None if given is None else _label_index(task, logits.shape[-1], given)
    entity = next((e for e in predicted.answer if (e["start"], e["end"]) == span), None)
    return [_stretch(task, predicted, span, label_index, None if given is not None else entity)]


def _stretch(
    task: ForwardTask,
    predicted: Predicted,
    span: tuple[int, int],
    label: int | None = None,
    entity: Any = None,
) -> Explained:
    """The mean logit of a stretch's words: of `label`, or of what is predicted for each.

    A word has the label of its first token. `entity` is the answer that names the stretch.
    """
    text, logits = predicted.row.text, predicted.outputs["logits"]
    tokens = _tokens_in(text_tokens(predicted.encoding, text, part=0), span)
    words = [token for token in tokens if token.starts_word] or tokens[:1]
    if not words:
        raise task.invalid(f"'target' is at {span[0]} to {span[1]}, where the model reads nothing")
    labels = [int(logits[word.index].argmax()) if label is None else label for word in words]
    places = tuple(
        Place("logits", (word.index, each), 1 / len(words))
        for word, each in zip(words, labels, strict=True)
    )
    chances = [softmax(logits[word.index])[each] for word, each in zip(words, labels, strict=True)]
    named = (entity or {}).get("entity_group", task.label(labels[0]))
    score = (entity or {}).get("score", float(np.mean(chances)))
    told: JsonValue = {
        "label": named,
        "word": text[span[0] : span[1]],
        "start": span[0],
        "end": span[1],
    }
    return Explained(told, score, places)


def _of_context(task: ForwardTask, predicted: Predicted, asked: object) -> list[Explained]:
    """A stretch of the context, or tokens; the answer. No answer is the row's first token."""
    context = predicted.row.pair or ""
    tokens = text_tokens(predicted.encoding, context, part=1)
    length = len(predicted.encoding.ids)
    if asked is None:
        answer = predicted.answer[0] if isinstance(predicted.answer, list) else predicted.answer
        inside = _tokens_in(tokens, (answer["start"], answer["end"]))
        first, last = _ends(predicted.outputs, inside) if inside else (0, 0)
        told: JsonValue = {name: answer[name] for name in ("answer", "start", "end")}
        return [_both_ends(told, answer["score"], first, last)]
    if isinstance(asked, list | tuple) and len(asked) == 2:
        first, last = (_index(task, each, length, asked, _SPANS_ALLOWED) for each in asked)
    elif isinstance(asked, int):
        first = last = _index(task, asked, length, asked, _SPANS_ALLOWED)
    else:
        wanted = {"answer": asked} if isinstance(asked, str) else _object(asked)
        span = _span(wanted, context, "answer")
        inside = _tokens_in(tokens, span) if span is not None else []
        if span is None or not inside or not wanted.keys() <= {"answer", "start", "end"}:
            raise _wrong(task, asked, _SPANS_ALLOWED)
        first, last = _ends(predicted.outputs, inside)
        told = {"answer": context[span[0] : span[1]], "start": span[0], "end": span[1]}
        return [_both_ends(told, _span_score(predicted.outputs, tokens, first, last), first, last)]
    if last < first:
        raise _wrong(task, asked, _SPANS_ALLOWED)
    names = predicted.encoding.tokens
    told = {"start_token": names[first], "end_token": names[last], "index": [first, last]}
    return [_both_ends(told, _span_score(predicted.outputs, tokens, first, last), first, last)]


def _both_ends(told: JsonValue, score: float | None, first: int, last: int) -> Explained:
    start, end = (Place("start_logits", (first,)),), (Place("end_logits", (last,)),)
    return Explained(told, score, (*start, *end), (start, end))


def _ends(outputs: Arrays, inside: list[Token]) -> tuple[int, int]:
    """The tokens that most probably begin and end a stretch: of its first and of its last word."""
    first_word = [inside[0]]
    for token in inside[1:]:
        if token.starts_word:
            break
        first_word.append(token)
    last_word = [inside[-1]]
    for token in reversed(inside[:-1]):
        if last_word[-1].starts_word:
            break
        last_word.append(token)
    starts, ends = outputs["start_logits"], outputs["end_logits"]
    first = max(first_word, key=lambda token: float(starts[token.index]))
    last = max(last_word, key=lambda token: float(ends[token.index]))
    return first.index, last.index


def _span_score(outputs: Arrays, tokens: Sequence[Token], first: int, last: int) -> float | None:
    """p(start) * p(end) over the context's tokens; None where they are not of the context."""
    rows = [token.index for token in tokens]
    if first not in rows or last not in rows:
        return None
    starts, ends = (softmax(outputs[name][rows]) for name in ("start_logits", "end_logits"))
    return float(starts[rows.index(first)] * ends[rows.index(last)])


def _tokens_in(tokens: Sequence[Token], span: tuple[int, int]) -> list[Token]:
    return [token for token in tokens if token.start < span[1] and token.end > span[0]]


def _span(wanted: Mapping[str, object], text: str, name: str = "word") -> tuple[int, int] | None:
    """`start` and `end`, or the first place of a text; None where there is none."""
    start, end = wanted.get("start"), wanted.get("end")
    if _is_whole(start) and _is_whole(end):
        assert isinstance(start, int)
        assert isinstance(end, int)
        return (start, end) if 0 <= start < end <= len(text) else None
    word = wanted.get(name)
    if not isinstance(word, str) or not word or not (start is None and end is None):
        return None
    found = text.find(word)
    return None if found < 0 else (found, found + len(word))


def _label_index(task: ForwardTask, count: int, asked: object) -> int:
    names = [task.label(index) for index in range(count)]
    if isinstance(asked, str) and asked in names:
        return names.index(asked)
    if _is_whole(asked) and isinstance(asked, int) and 0 <= asked < count:
        return asked
    shown = ", ".join(names[:MAX_SHOWN]) + (", …" if count > MAX_SHOWN else "")
    raise _wrong(task, asked, f"a label ({shown}) or its number, 0 to {count - 1}")


def _index(task: ForwardTask, value: object, count: int, asked: object, allowed: str) -> int:
    if not _is_whole(value) or not isinstance(value, int) or not 0 <= value < count:
        raise _wrong(task, asked, f"{allowed}; tokens are 0 to {count - 1}")
    return value


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _wrong(task: ForwardTask, asked: object, allowed: str) -> PredictionError:
    return task.invalid(f"'target' must be {allowed}, not {shown(asked)}")


_WORDS_ALLOWED = (
    'a word of the text, {"word": "..."} or {"start": 0, "end": 5} with or without "label", or'
    " [token, label]"
)
_SPANS_ALLOWED = (
    'a stretch of the context as text, {"start": 0, "end": 5}, a token\'s number, or two of them'
)
_FINDERS: Mapping[str, Finder] = {
    "text-classification": _of_text,
    "token-classification": _of_tokens,
    "question-answering": _of_context,
}
