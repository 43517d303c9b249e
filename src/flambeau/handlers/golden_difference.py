"""Where one answer differs from another beyond rounding. Pure.

Texts of answers may quote their inputs, so that what is told of a difference never holds one,
unless it stands where labels do.
"""

from collections.abc import Sequence
from typing import TypeGuard

import msgspec

from flambeau.types import JsonValue

TELLABLE = frozenset({"label", "labels", "entity", "entity_group", "finish_reason"})
"""Keys whose texts are the model's own words."""

COMMON_START = 8
"""Characters at the start of a generated text that must be equal where it need not be exact."""

VECTOR = 8
"""A list of so many whole numbers is a vector that was rounded to them."""


class Tolerance(msgspec.Struct, frozen=True):
    """How near an answer must be.

    A fraction may be `number` away, above 1 times its size, and a whole number `whole`; None: any.
    Without `exact_texts`, texts must begin alike and lists may have other lengths: with
    rounding, what is generated may go elsewhere.
    """

    number: float
    whole: float | None = 0
    exact_texts: bool = True


def difference(
    expected: JsonValue, found: JsonValue, tolerance: Tolerance, path: str = ""
) -> str | None:
    """The first difference, in words that follow "it"; None where there is none."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return _of_objects(expected, found, tolerance, path)
    if isinstance(expected, list) and isinstance(found, list):
        return _of_lists(expected, found, tolerance, path)
    if isinstance(expected, str) and isinstance(found, str):
        return _of_texts(expected, found, tolerance, path)
    if _is_number(expected) and _is_number(found):
        return _of_numbers(expected, found, tolerance, path)
    if type(expected) is type(found) and expected == found:
        return None
    return f"gave {_kind(found)}{_at(path)}, not {_kind(expected)}"


def _of_objects(
    expected: dict[str, JsonValue],
    found: dict[str, JsonValue],
    tolerance: Tolerance,
    path: str,
) -> str | None:
    for key in expected:
        if key not in found:
            return f"gave no {key!r}{_at(path)}"
    for key in found:
        if key not in expected:
            return f"gave a {key!r} too many{_at(path)}"
    each = (difference(expected[key], found[key], tolerance, f"{path}.{key}") for key in expected)
    return next((told for told in each if told is not None), None)


def _of_lists(
    expected: Sequence[JsonValue], found: Sequence[JsonValue], tolerance: Tolerance, path: str
) -> str | None:
    if len(expected) != len(found):
        if not tolerance.exact_texts:
            return None
        return f"gave {len(found)} elements{_at(path)}, not {len(expected)}"
    if _is_ranking(expected) and _have_scores(found):
        return _of_rankings(expected, found, tolerance, path)
    if len(expected) >= VECTOR and all(type(each) is int for each in (*expected, *found)):
        tolerance = msgspec.structs.replace(tolerance, whole=1)
    each = (
        difference(one, other, tolerance, f"{path}[{index}]")
        for index, (one, other) in enumerate(zip(expected, found, strict=True))
    )
    return next((told for told in each if told is not None), None)


def _of_rankings(
    expected: Sequence[dict[str, JsonValue]],
    found: Sequence[dict[str, JsonValue]],
    tolerance: Tolerance,
    path: str,
) -> str | None:
    """Answers that stand in the order of their scores: near ones may have changed places."""
    taken: set[int] = set()
    for index, one in enumerate(expected):
        near = [
            place
            for place, other in enumerate(expected)
            if abs(_score(other) - _score(one)) <= 2 * tolerance.number and place != index
        ]
        for place in (index, *near):
            if place not in taken and difference(one, found[place], tolerance) is None:
                taken.add(place)
                break
        else:
            at = f"{path}[{index}]"
            told = _of_objects(one, found[index], tolerance, at)
            return told or f"gave another answer{_at(at)}"
    return None


def _of_texts(expected: str, found: str, tolerance: Tolerance, path: str) -> str | None:
    if expected == found:
        return None
    if not tolerance.exact_texts:
        short = min(len(expected), len(found)) < COMMON_START
        if short or expected[:COMMON_START] == found[:COMMON_START]:
            return None
    if path.rpartition(".")[2].partition("[")[0] in TELLABLE:
        return f"gave {found!r}{_at(path)}, not {expected!r}"
    pairs = enumerate(zip(expected, found, strict=False))
    place = next((index for index, (one, other) in pairs if one != other), None)
    place = min(len(expected), len(found)) if place is None else place
    return (
        f"gave another text{_at(path)}: {len(found)} characters, not {len(expected)}, and different"
        f" from character {place} on"
    )


def _of_numbers(expected: float, found: float, tolerance: Tolerance, path: str) -> str | None:
    if isinstance(expected, int) and isinstance(found, int):
        near = tolerance.whole is None or abs(expected - found) <= tolerance.whole
    else:
        near = abs(expected - found) <= tolerance.number * max(1.0, abs(expected))
    return None if near else f"gave {found:.6g}{_at(path)}, not {expected:.6g}"


def _is_number(value: JsonValue) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_ranking(values: Sequence[JsonValue]) -> TypeGuard[Sequence[dict[str, JsonValue]]]:
    """Whether these are objects with scores, the highest first."""
    if not _have_scores(values):
        return False
    scores = [_score(value) for value in values]
    return scores == sorted(scores, reverse=True)


def _have_scores(values: Sequence[JsonValue]) -> TypeGuard[Sequence[dict[str, JsonValue]]]:
    return all(isinstance(value, dict) and _is_number(value.get("score")) for value in values)


def _score(value: dict[str, JsonValue]) -> float:
    score = value["score"]
    assert isinstance(score, int | float)
    return score


def _at(path: str) -> str:
    return f" at {path.removeprefix('.')}" if path else ""


def _kind(value: JsonValue) -> str:
    """What a value is, without its text."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    names = {int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return names.get(type(value), "something else")
