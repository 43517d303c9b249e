"""What several windows of one row make together."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from flambeau.tasks.base.records import Encoding, Window

Value = TypeVar("Value")


def window_weights(windows: Sequence[Window]) -> npt.NDArray[np.float64]:
    """Each window's share of its row's tokens: of those that it is the first to read. Sum 1.

    Special tokens do not count, nor does the part of a pair that each window repeats.
    """
    if len(windows) == 1:
        return np.ones(1)
    part = _windowed_part(windows)
    fresh = [window.encoding.parts.count(part) - window.encoding.shared for window in windows]
    return np.array(fresh) / sum(fresh)


def join_windows(windows: Sequence[Window]) -> Window:
    """A row as if the model had read it in one window; outputs must have a row per token.

    Of a token that several windows hold, the outputs are those of the window that shows the most
    around it: where it stands furthest from a cut. The special tokens are those before the first
    window's text and behind the last one's.
    """
    if len(windows) == 1:
        return windows[0]
    part = _windowed_part(windows)
    sizes = [len(window.encoding.ids) for window in windows]
    # Places count through all windows, one behind the other.
    begins = np.cumsum([0, *sizes])
    first, behind = _span(windows[0].encoding, part)[0], _span(windows[-1].encoding, part)[1]
    places = [
        *range(first),
        *_most_context(windows, part, begins),
        *range(int(begins[-2]) + behind, int(begins[-1])),
    ]
    outputs = {
        name: np.concatenate([window.outputs[name] for window in windows])[places]
        for name in windows[0].outputs
    }
    return Window(_gather([window.encoding for window in windows], places), outputs)


def _most_context(
    windows: Sequence[Window], part: int, begins: npt.NDArray[np.int_]
) -> Sequence[int]:
    """For each token of the windowed part, in the text's order, its place in the best window."""
    starts, counts, position = [], [], 0
    for window in windows:
        begin, end = _span(window.encoding, part)
        position -= window.encoding.shared
        starts.append(position)
        counts.append(end - begin)
        position += end - begin
    best = np.full(position, -1.0)
    places = np.zeros(position, dtype=int)
    for index, (window, start, count) in enumerate(zip(windows, starts, counts, strict=True)):
        # The text's own beginning and end are no cuts.
        before = np.full(count, np.inf) if index == 0 else np.arange(count)
        after = np.full(count, np.inf) if index == len(windows) - 1 else np.arange(count)[::-1]
        context = np.minimum(before, after)
        held = slice(start, start + count)
        better = context > best[held]
        begin = int(begins[index]) + _span(window.encoding, part)[0]
        best[held] = np.where(better, context, best[held])
        places[held] = np.where(better, begin + np.arange(count), places[held])
    chosen: list[int] = places.tolist()
    return chosen


def _windowed_part(windows: Sequence[Window]) -> int:
    """Which part of a pair differs between windows; 0 where there is no pair."""
    first, second = (window.encoding for window in windows[:2])
    if 1 not in first.parts and 1 not in second.parts:
        return 0
    return int(_offsets(first, 0) == _offsets(second, 0))


def _offsets(encoding: Encoding, part: int) -> list[tuple[int, int]]:
    placed = zip(encoding.offsets, encoding.parts, strict=True)
    return [span for span, of_part in placed if of_part == part]


def _span(encoding: Encoding, part: int) -> tuple[int, int]:
    """The first token of a part and the one behind its last."""
    first = encoding.parts.index(part)
    return first, first + encoding.parts.count(part)


def _gather(encodings: Sequence[Encoding], places: Sequence[int]) -> Encoding:
    return Encoding(
        ids=_pick([each.ids for each in encodings], places),
        type_ids=_pick([each.type_ids for each in encodings], places),
        tokens=_pick([each.tokens for each in encodings], places),
        offsets=_pick([each.offsets for each in encodings], places),
        words=_pick([each.words for each in encodings], places),
        parts=_pick([each.parts for each in encodings], places),
    )


def _pick(lists: Sequence[Sequence[Value]], places: Sequence[int]) -> list[Value]:
    flat = [value for each in lists for value in each]
    return [flat[place] for place in places] if flat else []
