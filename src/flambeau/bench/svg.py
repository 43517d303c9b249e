"""Charts as SVG text, without a library: lines over numbers, bars over names."""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

Point = tuple[float, float]

_WIDTH, _HEIGHT = 720, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 24, 72, 56
_COLORS = ("#c2410c", "#1d4ed8", "#047857", "#7c3aed", "#be185d", "#0e7490", "#a16207", "#475569")
_GRID = "#8884"
_TICKS = 5


def line_chart(
    title: str,
    series: Mapping[str, Sequence[Point]],
    *,
    x: str,
    y: str,
    log_y: bool = False,
) -> str:
    """An SVG document: one line with points for each series. `x` and `y` name the axes."""
    points = [point for line in series.values() for point in line]
    across = _Axis([point[0] for point in points], _LEFT, _WIDTH - _RIGHT)
    up = _Axis([point[1] for point in points], _HEIGHT - _BOTTOM, _TOP, log=log_y)
    parts = _frame(title, x, y, up)
    for tick in across.ticks():
        parts.append(_text(across.at(tick), _HEIGHT - _BOTTOM + 18, _number(tick), "middle"))
    for index, line in enumerate(series.values()):
        color = _COLORS[index % len(_COLORS)]
        path = " ".join(f"{across.at(a):.1f},{up.at(b):.1f}" for a, b in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{across.at(a):.1f}" cy="{up.at(b):.1f}" r="3" fill="{color}"/>'
            for a, b in line
        ]
    parts += _legend(series)
    return _document(parts)


def bar_chart(title: str, groups: Mapping[str, Mapping[str, float]], *, y: str) -> str:
    """An SVG document: a group of bars for each name, each bar with its value on top."""
    names = list(dict.fromkeys(name for bars in groups.values() for name in bars))
    up = _Axis(
        [value for bars in groups.values() for value in bars.values()], _HEIGHT - _BOTTOM, _TOP + 12
    )
    parts = _frame(title, "", y, up)
    slot = (_WIDTH - _LEFT - _RIGHT) / max(1, len(groups))
    width = slot * 0.8 / max(1, len(names))
    for place, (group, bars) in enumerate(groups.items()):
        left = _LEFT + slot * (place + 0.1)
        parts.append(
            _text(left + slot * 0.4, _HEIGHT - _BOTTOM + 18, group, "middle", _fit(group, slot))
        )
        for name, value in bars.items():
            index = names.index(name)
            edge, top = left + width * index, up.at(value)
            color = _COLORS[index % len(_COLORS)]
            parts.append(
                f'<rect x="{edge:.1f}" y="{top:.1f}" width="{width * 0.92:.1f}"'
                f' height="{up.at(0) - top:.1f}" fill="{color}"/>'
            )
            label = _number(value)
            parts.append(_text(edge + width * 0.46, top - 4, label, "middle", _fit(label, width)))
    if len(names) > 1:
        parts += _legend(names)
    return _document(parts)


class _Axis:
    """Maps values to pixels. Linear from 0, or logarithmic over whole decades."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, log: bool = False):
        self._start, self._end = start, end
        seen = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
        top = max(seen, default=1.0) or 1.0
        self._log = log
        if log:
            self._low = math.floor(math.log10(min(seen, default=1.0)))
            self._high = max(self._low + 1, math.ceil(math.log10(top)))
        else:
            self._step = _round_step(top / _TICKS)
            self._low, self._high = 0, math.ceil(top / self._step - 1e-9)

    def at(self, value: float) -> float:
        """The pixel of a value; values outside stick to the edge."""
        place = math.log10(max(value, 1e-12)) if self._log else value / self._step
        share = (place - self._low) / (self._high - self._low)
        return self._start + (self._end - self._start) * min(1.0, max(0.0, share))

    def ticks(self) -> list[float]:
        """Values that get a label."""
        steps = range(self._low, self._high + 1)
        return [10.0**step if self._log else step * self._step for step in steps]


def _round_step(rough: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough - 1e-12)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _fit(text: str, width: float) -> float:
    """A font size at which the text is about as wide as `width` allows."""
    return max(7.0, min(12.0, width / (0.6 * max(1, len(text)))))


def _text(x: float, y: float, text: str, anchor: str, size: float = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size:.1f}">'
        f"{escape(text)}</text>"
    )


def _frame(title: str, x: str, y: str, up: _Axis) -> list[str]:
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    parts = [
        _text(_LEFT, 20, title, "start", 15),
        _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 14, x, "middle"),
        f'<g transform="rotate(-90 16 {middle})">{_text(16, middle, y, "middle")}</g>',
    ]
    for tick in up.ticks():
        height = up.at(tick)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}"'
            f' stroke="{_GRID}"/>'
        )
        parts.append(_text(_LEFT - 8, height + 4, _number(tick), "end"))
    return parts


def _legend(names: Iterable[str]) -> list[str]:
    """One row under the title."""
    parts, left = [], float(_LEFT)
    for index, name in enumerate(names):
        color = _COLORS[index % len(_COLORS)]
        parts.append(f'<rect x="{left:.0f}" y="38" width="10" height="10" fill="{color}"/>')
        parts.append(_text(left + 15, 47, name, "start"))
        left += 34 + 6.8 * len(name)
    return parts


def _document(parts: list[str]) -> str:
    """White ground, so that it is legible on a page of any colour."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
        ' font-family="system-ui, sans-serif" fill="#1f2937">\n'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )
