"""The native handler alone, in one process without a server: what a server adds is held against it.

    python -m benchmarks.servers.in_process --shape bert-base --seconds 5 [--set precision=int8]

Prints one JSON object: for each number of texts at a time, milliseconds of CPU and of wall clock a
text; `fixed` is one text of LATENCY_MIX's length at a time.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks import models
from benchmarks.report import ROOT
from benchmarks.servers.environments import UnavailableError
from benchmarks.servers.running import pinned

SIZES = (1, 8, 32)
LATENCY_MIX = "fixed:24"
"""Added latency is a millisecond or two: only texts of one length show it."""
_TEXTS = 512


class Alone(NamedTuple):
    """Milliseconds a text; `p50` is that of a whole call."""

    cpu_ms: float
    wall_ms: float
    p50_ms: float


def measure(
    shape: str, seconds: float, settings: Mapping[str, object], cores: str
) -> dict[str, Alone]:
    """Run this module in a process of its own. Raises `UnavailableError` where it fails."""
    words = [sys.executable, "-m", "benchmarks.servers.in_process", "--shape", shape]
    words += ["--seconds", str(seconds)]
    for key, value in settings.items():
        words += ["--set", f"{key}={value}"]
    words = pinned(cores, words)
    try:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"in process: not done within {error.timeout:g} s") from error
    if done.returncode:
        raise UnavailableError(f"in process: {done.stderr.strip().splitlines()[-1]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return {name: Alone(*figures) for name, figures in found.items()}


def main() -> None:
    """Measure and print."""
    from flambeau.testing.native import ServedNative

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="bert-base")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    settings = dict(item.split("=", 1) for item in arguments.set)
    handler = ServedNative(models.model(arguments.shape), task="text-classification", **settings)
    found = {}
    for name, mix, size in (
        *((str(size), models.MIX, size) for size in SIZES),
        ("fixed", LATENCY_MIX, 1),
    ):
        found[name] = _run(handler, models.texts(_TEXTS, mix), size, arguments.seconds)
    print(json.dumps(found))


def _run(handler: object, texts: Sequence[str], size: int, seconds: float) -> Alone:
    assert callable(handler)
    handler(*(text.encode() for text in texts[:size]))
    walls = []
    at = 0
    cpu, begin = time.process_time(), time.perf_counter()
    while time.perf_counter() - begin < seconds:
        batch = [texts[(at + offset) % len(texts)].encode() for offset in range(size)]
        called = time.perf_counter()
        handler(*batch)
        walls.append(time.perf_counter() - called)
        at += size
    cpu = time.process_time() - cpu
    wall = time.perf_counter() - begin
    return Alone(cpu / at * 1000, wall / at * 1000, statistics.median(walls) * 1000)


if __name__ == "__main__":
    main()
