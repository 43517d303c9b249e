"""Runs all suites, each in a process of its own: two at a time, but those that need both cores alone."""

import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from tests.trust.running import Line
from tests.trust.suite import Profile, Suite, load_suite, suite_names
from tests.trust.table import record_figures

_ROOT = Path(__file__).parents[2]
_SECONDS = {"push": 420, "nightly": 8000}


def run_everything(seed: int, profile: Profile, *, controls: bool, record: bool) -> int:
    """Run all suites, and with `controls` every flaw of each; returns the number of red ones, at most 1.

    A red suite does not stop the others. It is tried once more, alone: where two cores are shared with
    other machines, a time may be theirs; what is broken is broken twice.
    """
    suites = [load_suite(name) for name in suite_names()]
    started = time.monotonic()
    lines: list[Line | None] = []
    for alone in (False, True):
        commands = [
            (suite, control)
            for suite in suites
            if suite.alone is alone
            for control in _controls(suite, every=controls)
        ]
        with ThreadPoolExecutor(1 if alone else 2) as pool:
            done = list(pool.map(lambda job: _run(job[0], job[1], seed, profile), commands))
        for at, command in enumerate(commands):
            if _is_red(done[at]):
                print(f"{command[0].name} is tried once more, with nothing beside it", flush=True)
                done[at] = _run(*command, seed, profile)
        lines += done
    red = sum(map(_is_red, lines))
    if record:
        record_figures(line for line in lines if line is not None and not line.control)
    print(f"trust: {len(lines) - red} green, {red} red, {time.monotonic() - started:.0f} s")
    return min(red, 1)


def _is_red(line: Line | None) -> bool:
    return line is None or not line.ok


def _controls(suite: Suite, *, every: bool) -> Iterator[str | None]:
    yield None
    if every:
        yield from suite.controls


def _run(suite: Suite, control: str | None, seed: int, profile: Profile) -> Line | None:
    """Run one in a process of its own and show its line; None where it ended without one."""
    command = [sys.executable, "-m", "tests.trust", suite.name, "--seed", str(seed)]
    command += ["--nightly"] if profile == "nightly" else []
    command += ["--control", control] if control else []
    try:
        done = subprocess.run(
            command, cwd=_ROOT, capture_output=True, text=True, timeout=_SECONDS[profile]
        )
    except subprocess.TimeoutExpired as late:
        told = f"{suite.name} {control or ''}: no end within {_SECONDS[profile]} s"
        print(told, (late.stderr or b"").decode(errors="replace")[-6000:], flush=True)
        return None
    last = _last_line(done.stdout.splitlines())
    if last is None or not last.ok:
        print(done.stderr[-6000:], flush=True)
    if last is None:
        told = f"{suite.name} {control or ''}: exit code {done.returncode}, and no line"
        print(told, done.stdout[-2000:], flush=True)
    else:
        print(msgspec.json.encode(last).decode(), flush=True)
    return last


def _last_line(lines: Iterable[str]) -> Line | None:
    for text in reversed(list(lines)):
        try:
            return msgspec.json.decode(text, type=Line)
        except msgspec.DecodeError:
            continue
    return None
