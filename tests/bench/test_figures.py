"""Percentiles, sweeps, peaks, plots: what is pure."""

import os
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from flambeau.bench.load import Load
from flambeau.bench.outcome import Outcome, Whole, curve, percentiles
from flambeau.bench.processes import cpu_seconds, proportional_bytes
from flambeau.bench.steps import find_peak, parse_sweep, peak_of
from flambeau.bench.svg import bar_chart, line_chart
from flambeau.errors import ConfigError


def _outcome(throughput: float, p99: float = 1.0, succeeded: int = 10) -> Outcome:
    latency = {"p50": 1.0, "p99": p99}
    return Outcome(
        {"loop": "closed", "clients": 1}, 1.0, 10, succeeded, throughput, latency, {},
        0, 0, {}, Whole(1.5, 10, 0.1, server_cpu_seconds=0.5),
    )  # fmt: skip


def test_percentiles_are_samples_that_were_seen() -> None:
    """Nearest rank: no value is made up between two samples."""
    found = percentiles([at / 1000 for at in range(1, 1001)])
    assert found == {
        "p50": 500.0, "p90": 900.0, "p95": 950.0, "p99": 990.0, "p99.9": 999.0, "max": 1000.0,
        "mean": pytest.approx(500.5),
    }  # fmt: skip
    assert percentiles([0.25]) == dict.fromkeys(found, 250.0)
    assert percentiles([]) == {}


def test_the_curve_rises_to_the_slowest_request() -> None:
    """For a plot: at most as many points as asked for, the maximum last."""
    points = curve([3.0, 1.0, 2.0], points=10)
    assert points[-1] == (100.0, 3000.0)
    assert points == sorted(points)
    assert len(curve([0.1] * 5000, points=100)) <= 101
    assert curve([]) == []


def test_cpu_is_told_for_each_request() -> None:
    """Milliseconds a request, and requests a CPU second."""
    outcome = _outcome(10.0)
    assert outcome.server_cpu_ms == 50.0
    assert outcome.per_cpu_second == 20.0
    assert outcome.client_cpu_ms == 10.0
    assert outcome.document()["requests_per_server_cpu_second"] == 20.0


def test_the_peak_is_searched_until_more_clients_bring_nothing() -> None:
    """A plateau of one doubling does not end the search; two do."""
    answers = {1: 10.0, 2: 10.1, 4: 40.0, 8: 41.0, 16: 30.0, 32: 1000.0}
    asked: list[int] = []

    def run(load: Load) -> Outcome:
        asked.append(load.clients)
        return _outcome(answers[load.clients])

    outcomes = find_peak(Load(), run)
    assert asked == [1, 2, 4, 8, 16]
    best = peak_of(outcomes, None)
    assert best is not None
    assert best.throughput == 41.0


def test_the_peak_keeps_to_the_p99_that_was_asked_for() -> None:
    """Faster answers of fewer requests win then; there may be none."""
    outcomes = [_outcome(10, p99=5), _outcome(20, p99=50), _outcome(0, p99=1, succeeded=0)]
    within = peak_of(outcomes, 10)
    assert within is not None
    assert within.throughput == 10
    assert peak_of(outcomes, 1) is None


def test_a_sweep_is_one_setting_with_its_values() -> None:
    """Rates may be fractions; clients and words are whole."""
    assert parse_sweep("rate=0.5, 10") == ("rate", [0.5, 10.0])
    assert parse_sweep("words=16,64") == ("words", [16.0, 64.0])
    for wrong in ("rate", "rate=", "rate=0", "clients=1.5", "batch=1,2", "words=a"):
        with pytest.raises(ConfigError, match="rate=10,20,40"):
            parse_sweep(wrong)


def test_charts_are_svg_documents() -> None:
    """Well-formed whatever the names, with every series in the legend; empty ones too."""
    lines = {"a < b": [(0.0, 1.0), (1.0, 10.0)], "c & d": [(0.0, 0.0)]}
    for log in (False, True):
        root = ElementTree.fromstring(line_chart("<t>", lines, x="x", y="y", log_y=log))
        words = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
        assert {"<t>", "a < b", "c & d", "x", "y"} <= set(words)
    bars = {"one": {"p50": 3.0, "p99": 400.0}, "two": {"p50": 1.5}}
    root = ElementTree.fromstring(bar_chart("bars", bars, y="ms"))
    heights = [float(each.get("height", 0)) for each in root.iter() if each.get("fill") != "#fff"]
    assert max(heights) > 100
    ElementTree.fromstring(line_chart("none", {}, x="x", y="y"))
    ElementTree.fromstring(bar_chart("none", {}, y="y"))


def test_cpu_time_of_children_that_ended_counts() -> None:
    """What a worker used is not lost when it is replaced."""
    before = cpu_seconds(os.getpid())
    subprocess.run([sys.executable, "-c", "sum(range(10_000_000))"], check=True)
    assert cpu_seconds(os.getpid()) - before > 0.02


def test_memory_is_that_of_the_whole_tree() -> None:
    """A child adds its own pages, not those that it shares."""
    alone = proportional_bytes(os.getpid())
    child = subprocess.Popen(
        [sys.executable, "-c", "x = bytearray(60_000_000); print('made', flush=True); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"made\n"
        assert proportional_bytes(os.getpid()) - alone > 55_000_000
        child.communicate(b"\n", timeout=30)


def test_a_process_that_is_not_there_is_told() -> None:
    """Not measured as zero."""
    with pytest.raises(ConfigError, match="No process has the number"):
        cpu_seconds(2**22 + 1)
