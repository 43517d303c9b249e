"""When two answers count as the same, and what is told of a difference."""

from typing import Any

import pytest

from flambeau.handlers.golden_difference import Tolerance, difference

FINE = Tolerance(1e-4)
COARSE = Tolerance(5e-2)
LOOSE = Tolerance(2e-2, whole=None, exact_texts=False)

ENTITY = {"entity_group": "PER", "score": 0.93, "word": "Ada Lovelace", "start": 0, "end": 12}
LABELS = [{"label": "A", "score": 0.5}, {"label": "B", "score": 0.49}, {"label": "C", "score": 0.1}]


def ranked(*pairs: tuple[str, float]) -> list[dict[str, Any]]:
    return [{"label": label, "score": score} for label, score in pairs]


@pytest.mark.parametrize(
    ("expected", "found", "tolerance"),
    [
        (0.5, 0.50009, FINE),
        (1, 1.00005, FINE),
        (-1234.0, -1234.1, FINE),
        ({"a": [None, True, "x"]}, {"a": [None, True, "x"]}, FINE),
        (LABELS, ranked(("A", 0.52), ("B", 0.46), ("C", 0.13)), COARSE),
        (LABELS, ranked(("B", 0.51), ("A", 0.5), ("C", 0.08)), COARSE),
        ([LABELS, LABELS], [LABELS, ranked(("B", 0.5), ("A", 0.49), ("C", 0.1))], COARSE),
        ([3, -4, 127, 0, 9, 8, 7, 6], [4, -4, 126, 0, 9, 8, 7, 6], FINE),
        ({"generated_text": "Once upon a time"}, {"generated_text": "Once upon a hill"}, LOOSE),
        ({"generated_tokens": 5, "finish_reason": "stop"},
         {"generated_tokens": 9, "finish_reason": "length"}, LOOSE),
    ],
)  # fmt: skip
def test_rounding_is_no_difference(expected: Any, found: Any, tolerance: Tolerance) -> None:
    """Numbers within the tolerance, of large ones a share; near scores may change places."""
    assert difference(expected, found, tolerance) is None


@pytest.mark.parametrize(
    ("expected", "found", "tolerance", "told"),
    [
        (0.5, 0.5002, FINE, "gave 0.5002, not 0.5"),
        (1234.0, 1234.2, FINE, "gave 1234.2, not 1234"),
        ([ENTITY], [ENTITY | {"start": 1}], COARSE, "gave 1 at [0].start, not 0"),
        ([ENTITY], [ENTITY | {"entity_group": "LOC"}], COARSE,
         "gave 'LOC' at [0].entity_group, not 'PER'"),
        ([ENTITY], [], COARSE, "gave 0 elements, not 1"),
        ({"a": 1}, {"b": 1}, FINE, "gave no 'a'"),
        ({"a": 1}, {"a": 1, "b": 1}, FINE, "gave a 'b' too many"),
        ({"a": {"b": None}}, {"a": {"b": "x"}}, FINE, "gave a text at a.b, not null"),
        ({"a": True}, {"a": 1}, FINE, "gave a number at a, not true"),
        ({"a": 1.0}, {"a": False}, FINE, "gave false at a, not a number"),
        (LABELS, ranked(("B", 0.5), ("A", 0.49), ("C", 0.1)), FINE,
         "gave 'B' at [0].label, not 'A'"),
        (LABELS, ranked(("C", 0.5), ("B", 0.49), ("A", 0.1)), COARSE,
         "gave 'C' at [0].label, not 'A'"),
        (LABELS[:1], ranked(("B", 0.5)), COARSE, "gave 'B' at [0].label, not 'A'"),
        (LABELS, [*LABELS[:2], LABELS[1]], COARSE, "gave 'B' at [2].label, not 'C'"),
        ([3, -4, 127, 0, 9, 8, 7, 6], [5, -4, 127, 0, 9, 8, 7, 6], FINE, "gave 5 at [0], not 3"),
        ({"generated_text": "Once upon a time"}, {"generated_text": "A city on a hill"}, LOOSE,
         "gave another text at generated_text: 16 characters, not 16, and different from"
         " character 0 on"),
    ],
)  # fmt: skip
def test_what_is_told_of_a_difference(
    expected: Any, found: Any, tolerance: Tolerance, told: str
) -> None:
    """Where it is, what was found and what was expected; labels must be right, and offsets."""
    assert difference(expected, found, tolerance) == told


def test_texts_that_may_quote_the_input_are_not_told() -> None:
    """Only how long they are, and where they part."""
    expected: dict[str, Any] = {"answer": "in secret London", "score": 0.5}
    told = difference(expected, {"answer": "in secret Paris", "score": 0.5}, FINE)
    assert told == (
        "gave another text at answer: 15 characters, not 16, and different from character 10 on"
    )
