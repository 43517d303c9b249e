"""Sequence (stateful) batching over HTTP (contract.md section 5.11)."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flambeau.testing.echo import Gate, register, worker_pids, write_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until
from tests.scheduling.crowd import Crowd, client

# Adds up the numbers of a sequence. The body is a number; what else to do travels in headers.
SUM = """
import os, time

sums = {}

def handle(data, context):
    if data is None:
        return None
    answers = []
    names = [context.get_sequence_id(index) for index in range(len(data))]
    for index, row in enumerate(data):
        headers = context.get_all_request_header(index)
        if "x-gate" in headers:
            open(headers["x-gate"] + ".in." + str(os.getpid()), "w").close()
            while not os.path.exists(headers["x-gate"]):
                time.sleep(0.005)
        if "x-exit" in headers:
            os._exit(3)
        name = names[index]
        if "x-close" in headers:
            context.set_response_header(index, context.header_key_sequence_end, headers["x-close"])
        context.set_response_header(index, context.header_key_sequence_id, name)
        sums.setdefault(name, []).append(int(bytes(row["body"]) or 0))
        started = context.get_request_header(index, context.header_key_sequence_start)
        answers.append({"all": sums[name], "names": names, "pid": os.getpid(), "start": started})
    return answers
"""

NO_WORKER = (
    'Model "{}" has no worker to serve inference request. Please use scale workers API to add '
    "workers. If this is a sequence inference, please check if it is closed, or expired; or exceeds"
    " maxSequenceJobQueueSize"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """`wide`: batches of 4, up to 8 sequences; `pair`: two workers; `few`: 2 sequences, hasty."""
    store = tmp_path_factory.mktemp("store")
    common: dict[str, object] = {"sequenceBatching": True, "sequenceMaxIdleMSec": 600_000}
    rules: dict[str, dict[str, object]] = {
        "wide": common | {"batchSize": 4, "maxNumSequence": 8, "maxSequenceJobQueueSize": 10},
        "pair": common | {"minWorkers": 2, "maxWorkers": 2, "maxNumSequence": 4},
        "few": common | {"maxNumSequence": 2},
        "idle": common | {"sequenceMaxIdleMSec": 300},
        "old": common | {"sequenceTimeoutMSec": 300},
        "unset": {"sequenceBatching": True},
    }
    for name, yaml in rules.items():
        write_model(store, name, SUM, "1.0", **yaml)
    with running_server(store, tmp_path_factory.mktemp("cache")) as running:
        for name in rules:
            assert register(running, name).status_code == 200
        yield running


def say(server: RunningServer, model: str, number: int, **headers: str) -> httpx.Response:
    url = f"{server.inference}/predictions/{model}"
    return httpx.post(url, content=str(number), headers=headers, timeout=60)


def test_a_sequence_without_a_name_gets_one(server: RunningServer) -> None:
    """`ts-seq-<uuid>` with the start marker; its client goes on with the name it was told."""
    first = say(server, "wide", 1)
    name = first.headers["ts_request_sequence_id"]
    assert name.startswith("ts-seq-")
    assert len(name) == len("ts-seq-") + 36
    assert (first.json()["all"], first.json()["start"]) == ([1], "true")
    second = say(server, "wide", 2, ts_request_sequence_id=name)
    assert (second.json()["all"], second.json()["start"]) == ([1, 2], None)


def test_one_worker_owns_a_sequence(server: RunningServer) -> None:
    """Four sequences on two workers: each has its own state, and each worker owns two."""
    for number in range(3):
        for name in ("p1", "p2", "p3", "p4"):
            answer = say(server, "pair", number, ts_request_sequence_id=name)
            assert answer.json()["all"] == list(range(number + 1))
    owners = [
        say(server, "pair", 9, ts_request_sequence_id=name, ts_request_sequence_end="true").json()
        for name in ("p1", "p2", "p3", "p4")
    ]
    pids = [owner["pid"] for owner in owners]
    assert sorted(pids.count(pid) for pid in set(pids)) == [2, 2]


async def test_batches_across_sequences_keep_the_order_within_each(
    server: RunningServer, gate: Gate
) -> None:
    """Three requests of each of three sequences wait: three batches, one of each sequence in it."""
    async with client() as http:
        crowd = Crowd(server, "wide", http)
        first = crowd.send("0", ts_request_sequence_id="g", x_gate=str(gate.file))
        await asyncio.to_thread(gate.wait_entered)
        others = []
        for number in range(3):
            for name in ("a", "b", "c"):
                others.append(crowd.send(str(number), ts_request_sequence_id=name))
                await crowd.queued(len(others))
        gate.open()
        await first
        answers = [(await other).json() for other in others]
        assert [answer["names"] for answer in answers] == [["a", "b", "c"]] * 9
        assert [answer["all"] for answer in answers] == ([[0]] * 3 + [[0, 1]] * 3 + [[0, 1, 2]] * 3)
    for name in ("a", "b", "c", "g"):
        say(server, "wide", 0, ts_request_sequence_id=name, ts_request_sequence_end="true")


def test_too_many_sequences(server: RunningServer) -> None:
    """503 in TorchServe's words; the client's end marker makes room (TorchServe ignores it)."""
    for name in ("f1", "f2"):
        assert say(server, "few", 1, ts_request_sequence_id=name).status_code == 200
    refused = say(server, "few", 1, ts_request_sequence_id="f3")
    assert refused.status_code == 503
    assert refused.json()["type"] == "ServiceUnavailableException"
    assert refused.json()["message"] == NO_WORKER.format("few")
    ending = say(server, "few", 2, ts_request_sequence_id="f1", ts_request_sequence_end="true")
    assert ending.json()["all"] == [1, 2]
    assert say(server, "few", 1, ts_request_sequence_id="f3").status_code == 200
    closing = say(server, "few", 2, **{"ts_request_sequence_id": "f3", "x-close": "f2 ; f3"})
    assert closing.status_code == 200
    for name in ("f4", "f5"):
        answer = say(server, "few", 1, ts_request_sequence_id=name, ts_request_sequence_end="1")
        assert answer.status_code == 200


async def test_too_many_requests_of_one_sequence(server: RunningServer, gate: Gate) -> None:
    """One runs, maxSequenceJobQueueSize (1) waits, the next gets 429: its client's own limit."""
    async with client() as http:
        crowd = Crowd(server, "few", http)
        first = crowd.send("0", ts_request_sequence_id="q", x_gate=str(gate.file))
        await asyncio.to_thread(gate.wait_entered)
        second = crowd.send("1", ts_request_sequence_id="q")
        await crowd.queued(1)
        third = await crowd.send("2", ts_request_sequence_id="q")
        assert third.status_code == 429
        assert "maxSequenceJobQueueSize" in third.json()["message"]
        assert int(third.headers["retry-after"]) >= 1
        gate.open()
        assert (await first).status_code == 200
        assert (await second).json()["all"] == [0, 1]
        await crowd.send("2", ts_request_sequence_id="q", ts_request_sequence_end="true")


def test_an_idle_or_old_sequence_is_closed(server: RunningServer) -> None:
    """Another one takes its place (maxNumSequence is 1), as soon as the time has passed."""
    for model in ("idle", "old"):
        assert say(server, model, 1, ts_request_sequence_id="s").status_code == 200
        assert say(server, model, 1, ts_request_sequence_id="t").status_code in (200, 503)
        wait_until(
            lambda model=model: (  # type: ignore[misc]
                say(server, model, 1, ts_request_sequence_id="t").status_code == 200
            ),
        )


def test_without_an_idle_time_there_is_a_default(server: RunningServer) -> None:
    """TorchServe fails each request with a null pointer."""
    assert say(server, "unset", 5).json()["all"] == [5]


async def test_a_worker_that_dies_loses_its_sequences(server: RunningServer, gate: Gate) -> None:
    """Who was under way is told, and not tried again; so is the next request of who was not."""
    async with client() as http:
        crowd = Crowd(server, "wide", http)
        for name in ("d1", "d2", "d3"):
            assert (await crowd.send("1", ts_request_sequence_id=name)).status_code == 200
        first = crowd.send("0", ts_request_sequence_id="d0", x_gate=str(gate.file))
        await asyncio.to_thread(gate.wait_entered)
        dying = crowd.send("2", ts_request_sequence_id="d1", x_exit="1")
        await crowd.queued(1)
        behind = crowd.send("3", ts_request_sequence_id="d1")
        await crowd.queued(2)
        gate.open()
        assert (await first).status_code == 200
        for answer in (await dying, await behind):
            assert answer.status_code == 500
            message = answer.json()["message"]
            assert message.startswith("Worker died.")
            assert "The state of sequence d1 is lost: start a new sequence." in message
        told = await crowd.send("4", ts_request_sequence_id="d2")
        assert (told.status_code, told.json()["type"]) == (500, "InternalServerException")
        assert "The state of sequence d2 is lost" in told.json()["message"]
        for name in ("d1", "d2"):
            again = await crowd.send("5", ts_request_sequence_id=name)
            assert again.json()["all"] == [5]
        fresh = await crowd.send("6", ts_request_sequence_id="d3", ts_request_sequence_start="true")
        assert fresh.json()["all"] == [6]


async def test_a_client_that_leaves_takes_its_place_in_the_sequence_with_it(
    server: RunningServer, gate: Gate
) -> None:
    """What waited behind it runs; the sequence goes on."""
    async with client() as http:
        crowd = Crowd(server, "wide", http)
        first = crowd.send("0", ts_request_sequence_id="l", x_gate=str(gate.file))
        await asyncio.to_thread(gate.wait_entered)
        leaver = crowd.send("1", ts_request_sequence_id="l")
        await crowd.queued(1)
        stayer = crowd.send("2", ts_request_sequence_id="l")
        await crowd.queued(2)
        leaver.cancel()
        await crowd.queued(1)
        gate.open()
        await first
        assert (await stayer).json()["all"] == [0, 2]


def test_other_header_names(tmp_path: Path) -> None:
    """The three names are the server's settings; handlers see them in the context."""
    write_model(tmp_path / "store", "sum", SUM, "1.0", sequenceBatching=True, maxNumSequence=2)
    names = {
        "ts_header_key_sequence_id": "X-Session-Id",
        "ts_header_key_sequence_start": "X-Session-Start",
        "ts_header_key_sequence_end": "X-Session-End",
    }
    with running_server(tmp_path / "store", tmp_path / "cache", **names) as server:
        assert register(server, "sum").status_code == 200
        first = say(server, "sum", 1)
        name = first.headers["x-session-id"]
        assert first.json()["start"] == "true"
        headers = {"X-Session-Id": name, "X-Session-End": "true"}
        assert say(server, "sum", 2, **headers).json()["all"] == [1, 2]
        pid = worker_pids(server, "sum")[0]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: worker_pids(server, "sum") not in ([pid], []))
        again = say(server, "sum", 3, **{"X-Session-Id": name})
        assert again.json()["all"] == [3], "the sequence was closed, so no state was lost"
