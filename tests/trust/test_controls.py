"""What the proving ground promises of itself; `scripts/test` runs its suites after the other tests."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.trust.suite import Limit, load_suite, suite_names


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
    root = Path(__file__).parents[2]
    for arguments in (["t99"], ["t16", "--control", "no-such-flaw"]):
        command = [sys.executable, "-m", "tests.trust", *arguments]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
