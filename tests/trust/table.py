"""The tables of docs/trust.md: the suites and their last figures, and the ledger of others' vulnerabilities."""

import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

from tests.trust.ledger import LEDGER
from tests.trust.promises import BY_TESTS, PROMISES, UNPROVEN
from tests.trust.running import Line
from tests.trust.suite import load_suite, suite_names

PAGE = Path(__file__).parents[2] / "docs" / "trust.md"
FIGURES = PAGE.with_name("trust.json")
_FIGURES = ("<!-- figures: python -m tests.trust all --record -->\n", "<!-- end of figures -->")
_LEDGER = ("<!-- ledger: tests/trust/ledger.py -->\n", "<!-- end of ledger -->")


def record_figures(lines: Iterable[Line]) -> None:
    """Keep the last line of each suite and profile in docs/trust.json, and make the page's table."""
    known = recorded()
    known.update({(line.test, line.profile): line for line in lines})
    kept = sorted(known.values(), key=lambda line: (int(line.test[1:]), line.profile))
    FIGURES.write_bytes(msgspec.json.format(msgspec.json.encode(kept), indent=1) + b"\n")
    PAGE.write_text(made_page())


def made_page() -> str:
    """The page as it has to be: its text, with both tables made anew."""
    page = PAGE.read_text()
    for (begin, end), text in ((_FIGURES, table()), (_LEDGER, ledger())):
        pattern = re.compile(re.escape(begin) + ".*" + re.escape(end), re.DOTALL)
        made = f"{begin}\n{text}\n{end}"
        page = pattern.sub(lambda _, made=made: made, page)  # type: ignore[misc]
    return page


def recorded() -> dict[tuple[str, str], Line]:
    """Last lines by suite and profile."""
    if not FIGURES.exists():
        return {}
    lines = msgspec.json.decode(FIGURES.read_bytes(), type=list[Line])
    return {(line.test, line.profile): line for line in lines}


def table() -> str:
    """Each promise and the suites that prove it, then each suite's last figures, as Markdown."""
    suites = [load_suite(name) for name in suite_names()]
    rows = ["| promise | | suites |", "|---|---|---|"]
    for promise, text in PROMISES.items():
        proofs = [suite.name for suite in suites if promise in suite.promises]
        proofs += [each[promise] for each in (BY_TESTS, UNPROVEN) if promise in each]
        rows.append(f"| {promise} | {text} | {' '.join(proofs)} |")
    rows += ["", "| suite | has to show | last figures | when |", "|---|---|---|---|"]
    for (_, profile), line in recorded().items():
        suite = load_suite(line.test)
        nightly = profile == "nightly"
        limits = ", ".join(str(each) for each in suite.limits if nightly or not each.nightly)
        seen = ", ".join(f"{key} {value}" for key, value in line.figures.items())
        told = f"{line.date}, {line.seconds:.0f} s{'' if line.ok else ', RED'}"
        rows.append(f"| {suite.name} {suite.title} ({profile}) | {limits} | {seen} | {told} |")
    return "\n".join(rows) + "\n"


def ledger() -> str:
    """The ledger as Markdown."""
    rows = ["| whose | cause | records | shown by |", "|---|---|---|---|"]
    rows += [
        f"| {row.whose} | {row.cause} | {row.ids} | {' '.join(row.suites)} |" for row in LEDGER
    ]
    return "\n".join(rows) + "\n"
