"""What the proving ground promises of itself; `scripts/test` runs its suites after the other tests."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.trust.ledger import LEDGER
from tests.trust.promises import BY_TESTS, PROMISES, UNPROVEN
from tests.trust.suite import Limit, load_suite, suite_names
from tests.trust.table import PAGE, made_page

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", suite_names())
def test_each_suite_has_limits_promises_and_a_flaw_that_it_must_notice(name: str) -> None:
    """No suite without a limit that can break, and a control that shows that it does."""
    suite = load_suite(name)
    assert suite.name == name
    assert suite.limits
    assert suite.promises
    assert suite.controls


def test_a_limit_on_a_figure_that_is_missing_is_broken() -> None:
    """A suite that forgets to measure is red."""
    assert not Limit("lost", exactly=0).holds({})
    assert Limit("lost", exactly=0).holds({"lost": 0})
    assert not Limit("ratio", low=0.9).holds({"ratio": 0.89})
    assert Limit("ratio", low=0.9, high=1.2).holds({"ratio": 1.2})


def test_an_unknown_suite_and_an_unknown_flaw_are_refused() -> None:
    """A misspelt control must not pass as one that was noticed."""
    for arguments in (["t99"], ["t16", "--control", "no-such-flaw"]):
        command = [sys.executable, "-m", "tests.trust", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


def test_each_row_of_the_ledger_has_a_suite() -> None:
    """No cause of others' vulnerabilities is listed without something that shows us free of it."""
    known = set(suite_names())
    assert not [row for row in LEDGER if not row.suites or not known.issuperset(row.suites)]


def test_the_page_has_the_tables_of_today() -> None:
    """docs/trust.md is made, not written: its tables are those of the suites, figures and ledger."""
    assert PAGE.read_text() == made_page()


def test_each_promise_has_a_suite() -> None:
    """What is promised is proven, or said not to be; no suite proves what is not promised."""
    proven = {promise for name in suite_names() for promise in load_suite(name).promises}
    assert proven | BY_TESTS.keys() | UNPROVEN.keys() == PROMISES.keys()
    assert not proven & UNPROVEN.keys()
    assert all((ROOT / file).is_file() for file in BY_TESTS.values())
