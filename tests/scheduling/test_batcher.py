"""Batches through real workers: company, retries, time-outs, leavers, overload."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from flambeau.testing.echo import Gate, describe, predict, register, worker_pids, write_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until
from tests.scheduling.crowd import Crowd, client


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """`batch`: batches of 4; `hasty`: one at a time, answers within a second; `small`: queue of 2.

    `slow`: batches of 4, answers within two seconds.
    """
    store = tmp_path_factory.mktemp("store")
    write_model(store, "batch", batchSize=4)
    write_model(store, "hasty", responseTimeout=1)
    write_model(store, "slow", batchSize=4, responseTimeout=2)
    write_model(store, "small", jobQueueSize=2)
    write_model(store, "brief", clientTimeoutInMills=1000)
    write_model(store, "held", batchSize=3, maxBatchDelay=60_000)
    with running_server(store, tmp_path_factory.mktemp("cache")) as running:
        for name in ("batch", "hasty", "slow", "small", "brief", "held"):
            assert register(running, name).status_code == 200
        yield running


async def test_what_waits_while_a_worker_computes_goes_together(
    server: RunningServer, gate: Gate
) -> None:
    """A lone request goes at once; five that queued behind it become batches of 4 and 1."""
    async with client() as http:
        crowd = Crowd(server, "batch", http)
        first = crowd.send(**gate.headers)
        await asyncio.to_thread(gate.wait_entered)
        others = [crowd.send() for _ in range(5)]
        await crowd.queued(5)
        gate.open()
        assert (await first).json()["batch"] == 1
        sizes = [(await other).json()["batch"] for other in others]
        assert sorted(sizes) == [1, 4, 4, 4, 4]


async def test_a_lone_request_does_not_wait_for_company(server: RunningServer) -> None:
    """Not for a `maxBatchDelay` of a minute, as in TorchServe; describe shows it all the same."""
    async with client() as http:
        assert (await Crowd(server, "held", http).send()).json()["batch"] == 1
    assert describe(server, "held")["maxBatchDelay"] == 60_000


async def test_an_item_s_error_is_its_own(server: RunningServer, gate: Gate) -> None:
    """Its neighbours in the batch are answered; each with its own status."""
    async with client() as http:
        crowd = Crowd(server, "batch", http)
        first = crowd.send(**gate.headers)
        await asyncio.to_thread(gate.wait_entered)
        bad = crowd.send(x_do="error-item")
        good = [crowd.send(), crowd.send(x_status="201")]
        await crowd.queued(3)
        gate.open()
        assert (await first).status_code == 200
        assert ((await bad).status_code, (await bad).json()["message"]) == (418, "only this one")
        assert [(await one).status_code for one in good] == [200, 201]
        assert (await good[0]).json()["batch"] == 3


async def test_entries_of_a_dead_worker_are_tried_again_alone(
    server: RunningServer, gate: Gate, tmp_path: Path
) -> None:
    """The worker dies once under a batch of three: three answers, each from a batch of one."""
    async with client() as http:
        crowd = Crowd(server, "batch", http)
        first = crowd.send(**gate.headers)
        await asyncio.to_thread(gate.wait_entered)
        others = [crowd.send(), crowd.send(x_do="exit-once", x_file=str(tmp_path / "died"))]
        others.append(crowd.send())
        await crowd.queued(3)
        gate.open()
        assert (await first).status_code == 200
        answers = [await other for other in others]
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert [answer.json()["batch"] for answer in answers] == [1, 1, 1]
        assert (tmp_path / "died").exists()


async def test_a_request_that_kills_twice_is_answered_and_its_neighbours_too(
    server: RunningServer, gate: Gate
) -> None:
    """503 and a wait after two workers, the reason in the log; the others of its batch: 200 (R9)."""
    async with client() as http:
        crowd = Crowd(server, "batch", http)
        first = crowd.send(**gate.headers)
        await asyncio.to_thread(gate.wait_entered)
        poison, good = crowd.send(x_do="exit"), crowd.send()
        await crowd.queued(2)
        gate.open()
        assert (await first).status_code == 200
        assert (await good).status_code == 200
        answer = await poison
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["message"] == "Worker died."
        assert answer.json()["type"] == "InternalServerException"


async def test_a_hang_in_a_batch_is_a_504_of_its_own(
    server: RunningServer, gate: Gate, tmp_path: Path
) -> None:
    """Its neighbours are tried again, alone, and answered; it is tried twice and no more."""
    hang = Gate(tmp_path / "hang")
    async with client() as http:
        crowd = Crowd(server, "slow", http)
        first = crowd.send(**gate.headers)
        await asyncio.to_thread(gate.wait_entered)
        slow = crowd.send(**hang.headers)
        good = [crowd.send(), crowd.send()]
        await crowd.queued(3)
        gate.open()
        assert (await first).status_code in (200, 504)  # the queue may take its time
        answers = [await one for one in good]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert [answer.json()["batch"] for answer in answers] == [1, 1]
        answer = await slow
        assert answer.status_code == 504
        assert "responseTimeout" in answer.json()["message"]
        assert hang.entered() == 2


def test_a_hang_is_a_504_is_not_tried_again_and_the_worker_is_replaced(
    server: RunningServer, gate: Gate
) -> None:
    """The model's responseTimeout holds (G6); one process only has seen the request."""
    before = worker_pids(server, "hasty")
    answer = predict(server, "hasty", **gate.headers)
    assert answer.status_code == 504
    assert answer.headers["retry-after"] == "1"
    assert "responseTimeout" in answer.json()["message"]
    assert gate.entered() == 1
    wait_until(lambda: bool(worker_pids(server, "hasty")))
    assert worker_pids(server, "hasty") != before
    wait_until(lambda: predict(server, "hasty").status_code == 200)


async def test_a_request_that_waited_too_long_is_answered_and_never_computed(
    server: RunningServer, gate: Gate, tmp_path: Path
) -> None:
    """504 by the deadline, though the worker is still busy (G1, G8; TorchServe never answers)."""
    async with client() as http:
        crowd = Crowd(server, "brief", http)
        first = crowd.send(**gate.headers)
        await asyncio.to_thread(gate.wait_entered)
        late = await crowd.send(x_do="gate", x_file=str(tmp_path / "late"))
        assert late.status_code == 504
        assert "time-out" in late.json()["message"]
        assert not first.done()
        gate.open()
        assert (await first).status_code == 200
        assert (await crowd.send()).status_code == 200
        assert not any(name.startswith("late") for name in os.listdir(tmp_path))


async def test_a_full_queue_refuses_with_a_wait(server: RunningServer, gate: Gate) -> None:
    """One runs, two wait, the next get 503 at once; those who were accepted are answered."""
    async with client() as http:
        crowd = Crowd(server, "small", http)
        running = crowd.send(**gate.headers)
        await asyncio.to_thread(gate.wait_entered)
        accepted = [crowd.send(), crowd.send()]
        await crowd.queued(2)
        for refused in [await crowd.send() for _ in range(3)]:
            assert refused.status_code == 503
            assert refused.json()["type"] == "ServiceUnavailableException"
            assert "job_queue_size" in refused.json()["message"]
            assert int(refused.headers["retry-after"]) >= 1
        gate.open()
        assert [(await one).status_code for one in (running, *accepted)] == [200] * 3


@pytest.mark.parametrize("leavers", [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]])
async def test_leavers_at_every_place_of_the_queue(
    server: RunningServer, gate: Gate, leavers: list[int]
) -> None:
    """Whoever stays is answered, in a batch of those who stay."""
    async with client() as http:
        crowd = Crowd(server, "batch", http)
        first = crowd.send(**gate.headers)
        await asyncio.to_thread(gate.wait_entered)
        others = []
        for count in range(3):
            others.append(crowd.send())
            await crowd.queued(count + 1)
        for place in leavers:
            others[place].cancel()
        stayed = 3 - len(leavers)
        await crowd.queued(stayed)
        gate.open()
        assert (await first).status_code == 200
        for place, other in enumerate(others):
            if place not in leavers:
                assert (await other).json()["batch"] == stayed


async def test_a_leaver_within_a_batch_harms_nobody(server: RunningServer, tmp_path: Path) -> None:
    """One client of a running batch leaves; the others get their answers, and the worker lives."""
    gates = [Gate(tmp_path / "one"), Gate(tmp_path / "two")]
    pids = worker_pids(server, "batch")
    async with client() as http:
        crowd = Crowd(server, "batch", http)
        first = crowd.send(**gates[0].headers)
        await asyncio.to_thread(gates[0].wait_entered)
        leaver, stayer = crowd.send(**gates[1].headers), crowd.send()
        await crowd.queued(2)
        gates[0].open()
        await asyncio.to_thread(gates[1].wait_entered)
        leaver.cancel()
        gates[1].open()
        assert (await first).status_code == 200
        assert (await stayer).json()["batch"] == 2
        assert worker_pids(server, "batch") == pids


async def test_killed_twice_while_waiting_for_it(server: RunningServer, tmp_path: Path) -> None:
    """SIGKILL from outside under each of two attempts: one 503, within the time of a restart."""
    async with client() as http:
        crowd = Crowd(server, "batch", http)
        gate = Gate(tmp_path / "gate")
        asking = crowd.send(**gate.headers)
        for attempt in (1, 2):
            await asyncio.to_thread(gate.wait_entered, attempt)
            os.kill(gate.standing()[0], signal.SIGKILL)
        answer = await asking
        assert (answer.status_code, answer.json()["message"]) == (503, "Worker died.")
        assert (await crowd.send()).status_code == 200
