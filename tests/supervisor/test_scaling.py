"""Scaling, unregistering and stopping under load: no answer is lost, no process stays."""

import gc
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from flambeau.testing.echo import (
    Gate,
    children,
    describe,
    open_descriptors,
    predict,
    register,
    scale,
    waiting,
    worker_pids,
    write_model,
)
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until
from tests.supervisor.load import HANGS, Load, healthy


def test_scaling_up_and_down_under_load_loses_nothing(server: RunningServer) -> None:
    """Only idle or finished workers end; 1 → 3 → 1, every answer a 200 (section 6.6)."""
    with Load(server) as load:
        for count in (3, 1, 2, 1):
            assert scale(server, "echo", count).status_code == 200
            assert len(worker_pids(server, "echo")) == count
    assert set(load.statuses) == {200}


def test_scaling_between_minimum_and_maximum_changes_nothing(server: RunningServer) -> None:
    """Fewer than the minimum grow to it, more than the maximum shrink to it (section 6.6)."""
    scale(server, "echo", 2)
    pids = worker_pids(server, "echo")
    assert scale(server, "echo", 1, 5).status_code == 200
    assert worker_pids(server, "echo") == pids


def test_scaling_to_zero_answers_what_runs_and_refuses_the_rest(
    server: RunningServer, gate: Gate
) -> None:
    """The running request is finished; those that wait and those that come get 503."""
    with ThreadPoolExecutor() as threads:
        running = threads.submit(predict, server, "echo", **gate.headers)
        gate.wait_entered()
        queued = threads.submit(predict, server, "echo")
        wait_until(lambda: waiting(server, "echo") == 1)
        scaling = threads.submit(scale, server, "echo", 0)
        assert queued.result(60).status_code == 503
        assert predict(server, "echo").json()["type"] == "ServiceUnavailableException"
        assert not scaling.done()
        gate.open()
        assert running.result(60).status_code == 200
        assert scaling.result(60).status_code == 200
    assert worker_pids(server, "echo") == []
    assert healthy(server)


def test_unregistering_while_busy_answers_what_was_accepted(
    server: RunningServer, gate: Gate
) -> None:
    """Running and waiting requests get their answers; new ones a 404 (TorchServe: none at all)."""
    with ThreadPoolExecutor() as threads:
        running = threads.submit(predict, server, "echo", **gate.headers)
        gate.wait_entered()
        queued = [threads.submit(predict, server, "echo") for _ in range(3)]
        wait_until(lambda: waiting(server, "echo") == 3)
        removing = threads.submit(httpx.delete, f"{server.management}/models/echo", timeout=60)
        model = f"{server.management}/models/echo"
        wait_until(lambda: httpx.get(model).status_code == 404)
        assert predict(server, "echo").status_code == 404
        gate.open()
        assert [one.result(60).status_code for one in (running, *queued)] == [200] * 4
        assert removing.result(60).status_code == 200
    zygote = server.server.core.zygote._process
    assert zygote is not None
    wait_until(lambda: not children(zygote.pid))


@pytest.mark.parametrize("when", ["idle", "busy", "loading", "starting"])
def test_stopping_leaves_no_process_behind_and_loses_no_answer(
    tmp_path: Path, gate: Gate, when: str
) -> None:
    """Idle, under load, while a model hangs in its load, and before the zygote is ready (G9)."""
    store = tmp_path / "store"
    write_model(store, "echo")
    write_model(store, "slow", HANGS)
    gc.collect()  # what earlier tests left is not closed meanwhile
    before, descriptors = children(os.getpid()), open_descriptors()
    with ThreadPoolExecutor() as threads:
        with running_server(store, tmp_path / "cache") as server:
            accepted = []
            if when in ("idle", "busy"):
                assert register(server, "echo").status_code == 200
            if when == "loading":
                assert register(server, "slow", synchronous="false").status_code == 202
                wait_until(lambda: describe(server, "slow")["workers"][0]["pid"] > 0)  # type: ignore[index]  # JSON
            if when == "starting":
                assert register(server, "slow", synchronous="false").status_code == 202
            if when == "busy":
                accepted = [threads.submit(predict, server, "echo", **gate.headers)]
                gate.wait_entered()
                accepted += [threads.submit(predict, server, "echo") for _ in range(5)]
                wait_until(lambda: waiting(server, "echo") == 5)
                opening = threading.Timer(0.3, gate.open)
                opening.start()
        assert [one.result(60).status_code for one in accepted] == [200] * len(accepted)
    wait_until(lambda: children(os.getpid()) <= before)
    wait_until(lambda: open_descriptors() <= descriptors)
