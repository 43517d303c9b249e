"""docs/migrating.md answers for every fact of the contract, and names tests that exist."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
CONTRACT = ROOT.parent / "shared" / "contract.md"
MIGRATING = ROOT / "docs" / "migrating.md"
SECTIONS = {"1", "2", "3", "4", "5", "6", "7", "9"}
VERDICTS = {"same", "better", "not supported"}
BULLET_WORDS = 9


class Row(NamedTuple):
    """One line of the table. `tests` holds `file` or `file::test` below tests/."""

    section: str
    fact: str
    verdict: str
    how: str
    tests: list[str]


def contract_facts() -> Iterator[tuple[str, str]]:
    """Section and key of every table row (its first cell) and bullet (its first words)."""
    section = ""
    lines = CONTRACT.read_text().split("\n")
    for index, line in enumerate(lines):
        if heading := re.match(r"#{2,3} (\d+)(\.\d+)?\W", line):
            section = heading.group(1) + (heading.group(2) or "")
        elif line.startswith("## "):
            section = ""
        if section.partition(".")[0] not in SECTIONS:
            continue
        if line.startswith("|") and not _is_rule(line) and not _is_rule(lines[index + 1]):
            yield section, _cells(line)[0]
        elif line.startswith("- "):
            words = line[2:].partition("|")[0].split()
            yield section, " ".join(words[:BULLET_WORDS])


def migrating_rows() -> Iterator[Row]:
    """The rows of docs/migrating.md's tables."""
    section = ""
    for line in MIGRATING.read_text().split("\n"):
        if heading := re.match(r"#{2,4} (\d+)(\.\d+)?\W", line):
            section = heading.group(1) + (heading.group(2) or "")
        elif section and line.startswith("|") and not _is_rule(line):
            fact, verdict, how, tests = _cells(line)
            if fact != "TorchServe":
                yield Row(section, fact, verdict, how, re.findall(r"`([^`]+)`", tests))


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def _is_rule(line: str) -> bool:
    return re.fullmatch(r"\|[-| :]+\|", line) is not None


needs_contract = pytest.mark.skipif(not CONTRACT.exists(), reason="shared/contract.md is not here")


@needs_contract
def test_every_fact_of_the_contract_has_a_row() -> None:
    """Nothing of sections 1 to 7 and 9 is left out, and nothing is answered that nobody asked."""
    wanted = Counter(contract_facts())
    given = Counter(
        (row.section, row.fact)
        for row in migrating_rows()
        if row.section.partition(".")[0] in SECTIONS
    )
    assert wanted == given


def test_every_row_has_a_verdict_and_says_how() -> None:
    """`same`, `better` (how) or `not supported` (why)."""
    bad = [
        row
        for row in migrating_rows()
        if row.verdict not in VERDICTS or (row.verdict != "same" and not row.how)
    ]
    assert bad == []


def test_every_row_names_tests_that_exist() -> None:
    """What is the same or better is shown by a test; only `not supported` may have none."""
    bad = [row for row in migrating_rows() if row.verdict != "not supported" and not row.tests]
    assert bad == []
    missing = {name for row in migrating_rows() for name in row.tests if not _exists(name)}
    assert missing == set()


def _exists(name: str) -> bool:
    file, _, function = name.partition("::")
    path = ROOT / "tests" / file
    return path.is_file() and (not function or f"def {function}(" in path.read_text())
