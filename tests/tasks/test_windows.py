"""Windows of one row, put together."""

import msgspec
import numpy as np
import pytest

from flambeau.tasks.base import Encoding, Window, join_windows, window_weights

SIZE = 23
"""Tokens of the text that is cut into windows."""


def windows(width: int, shared: int, pair: int = 0) -> list[Window]:
    """Windows over a text of `SIZE` tokens, behind `pair` tokens of another that each repeats.

    A token's id and its only output say which it is; outputs have the window's number behind the
    point.
    """
    made = []
    for number, start in enumerate(range(0, SIZE, width - shared)):
        places = list(range(start, min(start + width, SIZE)))
        ids = [-1, *range(100, 100 + pair), -2, *places, -3]
        parts = [None, *[0] * pair, None, *[int(pair > 0)] * len(places), None]
        spans = [
            (index, index + 1) if part is not None else (0, 0)
            for index, part in zip(ids, parts, strict=True)
        ]
        words = [None if part is None else index for index, part in zip(ids, parts, strict=True)]
        encoding = Encoding(
            ids, [], [str(index) for index in ids], spans, words, parts, shared if number else 0
        )
        made.append(Window(encoding, {"x": np.array([[index + number / 100] for index in ids])}))
        if places[-1] == SIZE - 1:
            break
    return made


@pytest.mark.parametrize("pair", [0, 3])
@pytest.mark.parametrize(
    ("width", "shared"), [(23, 0), (30, 4), (8, 0), (8, 1), (8, 4), (8, 7), (2, 1)]
)
def test_every_token_is_there_once(width: int, shared: int, pair: int) -> None:
    """Joined windows have the text's tokens, in order, with the special ones at both ends."""
    joined = join_windows(windows(width, shared, pair))
    whole = [-1, *range(100, 100 + pair), -2, *range(SIZE), -3]
    assert joined.encoding.ids == whole
    assert joined.encoding.tokens == [str(index) for index in whole]
    assert len(joined.encoding.parts) == len(joined.encoding.words) == len(whole)
    assert joined.outputs["x"][:, 0].round().tolist() == whole


def test_tokens_are_of_the_window_that_shows_most_around_them() -> None:
    """In the overlap the first half is read in the window before, the other in the one behind."""
    first, second, *_ = windows(10, 4)
    assert second.encoding.ids[2] == 6
    sources = join_windows(windows(10, 4)).outputs["x"][2:14, 0] % 1 * 100
    assert sources.round().tolist() == [0] * 8 + [1] * 4
    assert first.encoding.shared == 0


@pytest.mark.parametrize("pair", [0, 5])
def test_weights_are_shares_of_the_text(pair: int) -> None:
    """Windows of 10, 10 and 11 of which 4 are shared: 10, 6 and 7 of 23 tokens are new."""
    assert window_weights(windows(10, 4, pair)) == pytest.approx([10 / 23, 6 / 23, 6 / 23, 1 / 23])
    assert window_weights(windows(30, 0, pair)).tolist() == [1.0]


def test_the_longer_text_may_stand_first() -> None:
    """Where the second part of a pair is what every window repeats, the first is joined."""
    swapped = []
    for window in windows(10, 4, pair=3):
        parts = [None if part is None else 1 - part for part in window.encoding.parts]
        swapped.append(
            Window(msgspec.structs.replace(window.encoding, parts=parts), window.outputs)
        )
    assert join_windows(swapped).encoding.ids[5:-1] == list(range(SIZE))
