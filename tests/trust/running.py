"""Runs one suite, judges its figures, and says so in one line of JSON."""

import datetime
import faulthandler
import os
import tempfile
import time
from pathlib import Path

import msgspec

from tests.trust.suite import Figures, Profile, Run, load_suite

FLAW = "FLAMBEAU_TRUST_FLAW"
"""The variable that tells the servers of a suite which flaw they have: `t8:no-retry`."""

_DUMP_SECONDS = {"push": 300, "nightly": 7200}


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """The outcome of a run. `ok`: all limits held, or, with a flaw, one did not, as it must."""

    test: str
    title: str
    ok: bool
    seconds: float
    figures: Figures
    broken: list[str]
    seed: int
    profile: str
    date: str
    control: str = ""


def run_suite(name: str, seed: int, profile: Profile, control: str | None = None) -> Line:
    """Run a suite in this process, which should do nothing else: a flaw stays in force."""
    suite = load_suite(name)
    faulthandler.dump_traceback_later(_DUMP_SECONDS[profile], exit=True)
    if control is not None:
        suite.controls[control]()
        os.environ[FLAW] = f"{name}:{control}"
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"flambeau-{name}-") as folder:
        figures = suite.run(Run(name, seed, profile, Path(folder), control))
    seconds = time.monotonic() - started
    faulthandler.cancel_dump_traceback_later()
    broken = [
        str(limit)
        for limit in suite.limits
        if (profile == "nightly" or not limit.nightly) and not limit.holds(figures)
    ]
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    ok = bool(broken) is (control is not None)
    rounded = {key: round(v, 4) if isinstance(v, float) else v for key, v in figures.items()}
    return Line(
        name, suite.title, ok, round(seconds, 1), rounded, broken, seed, profile, today,
        control or "",
    )  # fmt: skip


def apply_flaw() -> None:
    """Break this process as the variable says; done by servers that a suite has started."""
    told = os.environ.get(FLAW)
    if told:
        suite, _, control = told.partition(":")
        load_suite(suite).controls[control]()
