"""Answers in goldens: lists of records written as tables, and how two answers are compared."""

from typing import Any

TOLERANCE = 2e-4
"""How far a score may be from the golden's."""


def packed(value: Any) -> Any:
    """Lists of three and more records with the same keys become a table: {"keys", "rows"}."""
    if isinstance(value, dict):
        return {key: packed(item) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    if len(value) > 2 and all(isinstance(item, dict) for item in value):
        keys = list(value[0])
        if all(list(item) == keys for item in value):
            return {"keys": keys, "rows": [list(item.values()) for item in value]}
    return [packed(item) for item in value]


def unpacked(value: Any) -> Any:
    """What `packed` was given."""
    if isinstance(value, dict):
        if list(value) == ["keys", "rows"]:
            return [dict(zip(value["keys"], row, strict=True)) for row in value["rows"]]
        return {key: unpacked(item) for key, item in value.items()}
    return [unpacked(item) for item in value] if isinstance(value, list) else value


def difference(expected: Any, found: Any, place: str = "answer") -> str | None:
    """Where two answers differ, or None: floats within the tolerance, all else exact.

    The order of a record's keys counts too: clients print answers.
    """
    if isinstance(expected, float) and isinstance(found, int | float):
        if abs(expected - found) <= TOLERANCE:
            return None
        return f"{place}: {found} instead of {expected}"
    if type(expected) is not type(found):
        return f"{place}: {found!r} instead of {expected!r}"
    if isinstance(expected, dict):
        if list(expected) != list(found):
            return f"{place}: keys {list(found)} instead of {list(expected)}"
        parts = [(f"{place}.{key}", expected[key], found[key]) for key in expected]
    elif isinstance(expected, list):
        if len(expected) != len(found):
            return f"{place}: {len(found)} items instead of {len(expected)}: {found} {expected}"
        pairs = enumerate(zip(expected, found, strict=True))
        parts = [(f"{place}[{index}]", one, other) for index, (one, other) in pairs]
    else:
        return None if expected == found else f"{place}: {found!r} instead of {expected!r}"
    differences = (difference(one, other, name) for name, one, other in parts)
    return next((text for text in differences if text), None)
