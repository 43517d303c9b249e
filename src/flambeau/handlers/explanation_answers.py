"""Explanations as clients see them: per word of their own string, or in TorchServe's shape."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from flambeau.engines.attribution import Attribution
from flambeau.handlers.explanation_targets import Explained
from flambeau.tasks.base import Encoding, TextInput, text_tokens
from flambeau.types import JsonValue

Method = Literal["integrated_gradients", "gradient_x_input", "occlusion"]


class Word(msgspec.Struct, frozen=True):
    """A word of part 0 (text) or 1 (pair), its characters there, and its tokens in the row."""

    text: str
    start: int
    end: int
    part: int
    tokens: list[int]


class Told(msgspec.Struct, frozen=True):
    """What an explanation says of itself.

    `precision` is what was computed in; `reason` says why another method was taken than asked for.
    `steps` is None but for integrated gradients.
    """

    method: Method
    precision: str
    steps: int | None = None
    reason: str | None = None

    @property
    def header(self) -> str:
        """The method, with the reason for it if there is one."""
        return f"{self.method}; {self.reason}" if self.reason else self.method


def row_words(row: TextInput, encoding: Encoding) -> list[Word]:
    """The words of a row that the model reads, in order."""
    words: list[Word] = []
    for part, text in enumerate((row.text, row.pair or "")):
        for token in text_tokens(encoding, text, part):
            if token.starts_word:
                words.append(Word("", token.start, token.end, part, []))
            last = words[-1]
            end = max(last.end, token.end)
            words[-1] = Word(
                text[last.start : end], last.start, end, part, [*last.tokens, token.index]
            )
    return words


def full_answer(
    explained: Explained,
    found: Attribution,
    told: Told,
    row: TextInput,
    encoding: Encoding,
    parts: tuple[str, str],
) -> JsonValue:
    """One explanation. `found` has a number for each token, or for each word after occlusion.

    `parts` name the texts of a pair.
    """
    words = row_words(row, encoding)
    per_token = told.method != "occlusion"
    sums = [float(found.tokens[word.tokens].sum()) for word in words] if per_token else found.tokens
    answer: dict[str, JsonValue] = {
        "method": told.method,
        "target": explained.told,
        "score": explained.score,
        "words": [
            {
                "word": word.text,
                "start": word.start,
                "end": word.end,
                **({"part": parts[word.part]} if row.pair is not None else {}),
                "importance": float(importance),
            }
            for word, importance in zip(words, sums, strict=True)
        ],
        "delta": found.delta,
        "value": found.value,
        "baseline_value": found.baseline,
        "tokens": _tokens(found.tokens, words, row, encoding, parts) if per_token else [],
        "precision": told.precision,
    }
    if told.steps is not None:
        answer["n_steps"] = told.steps
    if told.reason is not None:
        answer["reason"] = told.reason
    return answer


def _tokens(
    importances: npt.NDArray[np.float64],
    words: Sequence[Word],
    row: TextInput,
    encoding: Encoding,
    parts: tuple[str, str],
) -> list[JsonValue]:
    """Every token, special ones too, which have no place in the text."""
    in_words = {index for word in words for index in word.tokens}
    rows = zip(encoding.tokens, encoding.offsets, encoding.parts, importances, strict=True)
    tokens: list[JsonValue] = []
    for index, (token, (start, end), part, importance) in enumerate(rows):
        placed = index in in_words
        told: dict[str, JsonValue] = {
            "token": token,
            "start": start if placed else None,
            "end": end if placed else None,
            "importance": float(importance),
        }
        if row.pair is not None:
            told["part"] = parts[part] if placed and part is not None else None
        tokens.append(told)
    return tokens


def legacy_answer(found: Sequence[Attribution], names: Sequence[str]) -> JsonValue:
    """TorchServe's shape: of one value, or of a start and an end. `names` go with the numbers.

    Importances are divided by their norm, as its example does.
    """
    answer: dict[str, JsonValue] = {"words": [name.replace("Ġ", "") for name in names]}
    if len(found) == 1:
        suffixes: list[tuple[str, str]] = [("", "")]
    else:
        suffixes = [("_answer_start", "_start"), ("_answer_end", "_end")]
    for each, (importance, delta) in zip(found, suffixes, strict=True):
        norm = float(np.linalg.norm(each.tokens)) or 1.0
        answer[f"importances{importance}"] = (each.tokens / norm).tolist()
        answer[f"delta{delta}"] = each.delta
    return answer


def value_of(outputs: Any, explained_target: Any) -> float:
    """A target's value in a row's outputs."""
    return float(
        sum(place.weight * float(outputs[place.output][place.at]) for place in explained_target)
    )
