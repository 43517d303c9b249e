"""Crash loops: what opens a model's breaker, what goes on meanwhile, and what closes it (G5)."""

import os
import signal
from pathlib import Path

import httpx
import pytest

from flambeau.supervisor import breaker
from flambeau.supervisor.breaker import Breaker, BreakerState
from flambeau.supervisor.pool import Pool
from flambeau.testing.echo import describe, predict, register, scale, worker_pids, write_model
from flambeau.testing.server import RunningServer
from flambeau.testing.waiting import wait_until
from tests.supervisor.load import healthy

# Ends its process with each request until a file is there.
MAD = """
import os

def handle(data, context):
    if data is not None and not os.path.exists("well"):
        os._exit(7)
    return ["fine"] * len(data or [])
"""


class Clock:
    """A clock that is set by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def _open(clock: Clock) -> Breaker:
    broken = Breaker(clock)
    assert [broken.died("signal SIGKILL", None) for _ in range(5)] == [False] * 4 + [True]
    return broken


def test_five_deaths_within_a_minute_open_it() -> None:
    """Older ones do not count, and an answer begins the count anew."""
    clock = Clock()
    slow = Breaker(clock)
    for _ in range(20):
        clock.now += 15.1
        assert not slow.died("exit code 1", None)
    answering = Breaker(clock)
    for _ in range(4):
        answering.died("exit code 1", None)
    answering.answered()
    assert not answering.died("exit code 1", None)
    assert answering.closed
    assert _open(clock).state is BreakerState.OPEN


def test_a_worker_that_was_there_before_keeps_it_closed() -> None:
    """Who has outlived the deaths can answer; one that came in between says nothing."""
    clock = Clock()
    one = Breaker(clock)
    assert not any(one.died("signal SIGSEGV", 999.0) for _ in range(9))
    other = Breaker(clock)
    assert any(other.died("signal SIGSEGV", 1000.5) for _ in range(9))


def test_it_is_half_open_every_thirty_seconds_for_ever() -> None:
    """A probe that dies begins the next wait; the wait that is told ends with the probe."""
    clock = Clock()
    broken = _open(clock)
    for _ in range(100):
        assert broken.retry_after() == 30
        clock.now += 29.5
        assert (broken.state, broken.retry_after()) == (BreakerState.OPEN, 1)
        clock.now += 0.5
        assert broken.state is BreakerState.HALF_OPEN
        broken.died("exit code 7", None)
    clock.now += 30
    broken.answered()
    assert broken.closed


def _drive_mad(server: RunningServer) -> httpx.Response:
    """Send different inputs until one is refused without a worker's death."""
    inputs = (f"input {number}" for number in range(20))
    answers = (predict(server, "mad", text) for text in inputs)
    return next(answer for answer in answers if "stays alive" in answer.json()["message"])


def test_a_model_whose_workers_die_of_everything_is_refused_at_once_until_a_probe_answers(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 with the wait until the probe, not ready, still alive; the others serve; then it is well."""
    monkeypatch.setattr(breaker, "PROBE_SECONDS", 1.5)
    folder = write_model(tmp_path / "store", "mad", MAD)
    assert register(server, "mad", initial_workers=2).status_code == 200
    refused = _drive_mad(server)
    assert refused.status_code == 503
    assert refused.headers["retry-after"] in ("1", "2")
    assert "died within" in refused.json()["message"]
    assert "exit code 7" in refused.json()["message"]
    assert "died within" in str(describe(server, "mad"))
    assert not healthy(server)
    assert predict(server, "echo").status_code == 200
    pool = server.server.core.registry.get("mad").pool
    assert pool.ready_count() == 0
    statuses = [predict(server, "mad", f"again {number}").status_code for number in range(50)]
    assert set(statuses) == {503}
    (folder / "well").touch()
    wait_until(lambda: predict(server, "mad", "good").status_code == 200)
    assert pool.breaker.closed
    assert healthy(server)


def test_three_poisonous_requests_in_a_row_do_not_open_it(
    server: RunningServer, tmp_path: Path
) -> None:
    """Two deaths under one input, which is refused from then on, count as one."""
    for number in range(3):
        assert predict(server, "echo", f"poison {number}", x_do="exit").status_code == 503
    assert predict(server, "echo", "good").status_code == 200
    assert server.server.core.registry.get("echo").pool.breaker.closed


def test_kills_under_a_model_that_answers_never_open_it(server: RunningServer) -> None:
    """Nine in a few seconds, an answer after each."""
    for _ in range(9):
        os.kill(worker_pids(server, "echo")[0], signal.SIGKILL)
        assert predict(server, "echo").status_code == 200
    assert server.server.core.registry.get("echo").pool.breaker.closed


def test_a_quiet_model_whose_worker_lives_is_ready_again(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asks: five kills make it not ready; a worker that lives for a probe's time does."""
    monkeypatch.setattr(breaker, "PROBE_SECONDS", 0.5)
    monkeypatch.setattr("flambeau.supervisor.pool.PROBE_SECONDS", 0.5)
    pool = server.server.core.registry.get("echo").pool
    assert scale(server, "echo", 3).status_code == 200
    _kill_until_open(pool)
    wait_until(lambda: pool.ready_count() == 3)
    assert pool.breaker.closed
    assert healthy(server)


def test_who_waits_for_a_quiet_model_is_told_when_it_is_ready_again(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A breaker closes as time passes: no other event wakes a synchronous scale."""
    monkeypatch.setattr(breaker, "PROBE_SECONDS", 0.5)
    monkeypatch.setattr("flambeau.supervisor.pool.PROBE_SECONDS", 0.5)
    pool = server.server.core.registry.get("echo").pool
    _kill_until_open(pool)
    assert scale(server, "echo", 1).status_code == 200
    assert pool.breaker.closed


def _kill_until_open(pool: Pool) -> None:
    killed: set[int] = set()
    while pool.breaker.state == "closed":
        new = [slot.pid for slot in pool.slots if slot.loaded_at is not None]
        for pid in set(new) - killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
    assert len(killed) >= 5
