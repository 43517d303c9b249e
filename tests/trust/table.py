"""The table of docs/trust.md: each promise, the suites that prove it, and their last figures."""

import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

from tests.trust.running import Line
from tests.trust.suite import load_suite, suite_names

PAGE = Path(__file__).parents[2] / "docs" / "trust.md"
FIGURES = PAGE.with_name("trust.json")
_BEGIN, _END = "<!-- figures: python -m tests.trust all --record -->\n", "<!-- end of figures -->"


def record_figures(lines: Iterable[Line]) -> None:
    """Keep the last line of each suite and profile in docs/trust.json, and make the page's table."""
    known = recorded()
    known.update({(line.test, line.profile): line for line in lines})
    kept = sorted(known.values(), key=lambda line: (int(line.test[1:]), line.profile))
    FIGURES.write_bytes(msgspec.json.format(msgspec.json.encode(kept), indent=1) + b"\n")
    page = PAGE.read_text()
    pattern = re.compile(re.escape(_BEGIN) + ".*" + re.escape(_END), re.DOTALL)
    PAGE.write_text(pattern.sub(lambda _: _BEGIN + "\n" + table() + "\n" + _END, page))


def recorded() -> dict[tuple[str, str], Line]:
    """Last lines by suite and profile."""
    if not FIGURES.exists():
        return {}
    lines = msgspec.json.decode(FIGURES.read_bytes(), type=list[Line])
    return {(line.test, line.profile): line for line in lines}


def table() -> str:
    """The table as Markdown."""
    known = recorded()
    rows = ["| test | proves | has to show | last figures (push) | when |", "|---|---|---|---|---|"]
    for name in suite_names():
        suite = load_suite(name)
        line = known.get((name, "push"))
        seen = ", ".join(f"{key} {value}" for key, value in line.figures.items()) if line else ""
        when = f"{line.date}, {line.seconds:.0f} s{'' if line.ok else ', RED'}" if line else "never"
        limits = ", ".join(str(limit) for limit in suite.limits if not limit.nightly)
        rows.append(
            f"| {name} {suite.title} | {' '.join(suite.promises)} | {limits} | {seen} | {when} |"
        )
    return "\n".join(rows) + "\n"
