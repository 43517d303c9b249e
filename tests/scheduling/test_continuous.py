"""Continuous batching over HTTP (contract.md section 5.12)."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flambeau.testing.echo import Gate, register, worker_pids, write_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until
from tests.scheduling.crowd import Crowd, client

# Counts from 0 to the number in the body, one a run. Each run appends the ids of its rows to a file.
COUNT = """
import json, os, time

class Handler:
    def initialize(self, context):
        self.left = {}
        self.told = {}

    def handle(self, data, context):
        ids = [context.get_request_id(index) for index in range(len(data))]
        for index, (name, row) in enumerate(zip(ids, data)):
            headers = context.get_all_request_header(index)
            if row:
                self.left[name] = int(bytes(row["body"]))
                self.told[name] = dict(headers)
            else:
                self.left[name] -= 1
        kinds = ["new" if row else "again" for row in data]
        for name in ids:
            told = self.told[name]
            if "x-file" in told and not os.path.exists(told["x-file"]):
                open(told["x-file"] + ".in." + str(os.getpid()), "w").close()
                while not os.path.exists(told["x-file"]):
                    time.sleep(0.005)
            if "x-raise" in told and self.left[name] == 2:
                raise ValueError("whole batch")
            if "x-exit" in told:
                os._exit(3)
        if ids and "x-endless" in self.told[ids[0]]:
            time.sleep(0.01)
        context.stopping_criteria = [self.criterion(name) for name in ids]
        answers = []
        for index, name in enumerate(ids):
            if "x-end-sequence" in self.told[name]:
                context.set_response_header(index, context.header_key_sequence_end,
                                            context.get_sequence_id(index))
            if "x-unserialisable" in self.told[name] and self.left[name] == 1:
                answers.append({1, 2})
            else:
                answers.append(json.dumps([self.left[name], kinds, len(data)]) + "\\n")
        return answers

    def criterion(self, name):
        told = self.told[name]
        def stop(item):
            if "x-unary" in told:
                return None
            if "x-bad-criterion" in told:
                raise KeyError("criterion")
            return self.left[name] <= 0
        return stop
"""


def write(store: Path, name: str, **yaml: object) -> None:
    """A model whose handler is a class."""
    write_model(store, name, COUNT, "1.0", continuousBatching=True, **yaml)
    manifest = store / name / "MAR-INF" / "MANIFEST.json"
    manifest.write_text(manifest.read_text().replace("handler.py:handle", "handler.py"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """`count`: batches of 3. `stateful`: sequences too, batches of 1 (so of 2, section 5.12)."""
    store = tmp_path_factory.mktemp("store")
    write(store, "count", batchSize=3)
    write(
        store,
        "stateful",
        batchSize=1,
        sequenceBatching=True,
        sequenceMaxIdleMSec=600_000,
        maxNumSequence=2,
        maxSequenceJobQueueSize=5,
    )
    with running_server(store, tmp_path_factory.mktemp("cache")) as running:
        for name in ("count", "stateful"):
            assert register(running, name).status_code == 200
        yield running


def chunks(server: RunningServer, model: str, number: int, **headers: str) -> list[str]:
    """The chunks of a streamed answer, as they were sent."""
    url = f"{server.inference}/predictions/{model}"
    with httpx.stream("POST", url, content=str(number), headers=headers, timeout=60) as answer:
        assert answer.status_code == 200
        assert "ts_stream_next" not in answer.headers
        assert answer.headers["transfer-encoding"] == "chunked"
        return "".join(answer.iter_text()).splitlines()


def test_each_run_is_a_chunk(server: RunningServer) -> None:
    """The full row first, then empty rows, until the stopping criterion says so."""
    assert chunks(server, "count", 2) == [
        '[2, ["new"], 1]',
        '[1, ["again"], 1]',
        '[0, ["again"], 1]',
    ]


def test_a_criterion_of_none_is_a_unary_answer(server: RunningServer) -> None:
    """It has a length, and is not chunked."""
    url = f"{server.inference}/predictions/count"
    answer = httpx.post(url, content="5", headers={"x-unary": "1"})
    assert answer.text == '[5, ["new"], 1]\n'
    assert "content-length" in answer.headers


async def test_requests_join_a_running_batch(server: RunningServer, gate: Gate) -> None:
    """Up to batchSize: of four that wait behind the first, two join, then the others."""
    async with client() as http:
        crowd = Crowd(server, "count", http)
        first = crowd.send("2", x_file=str(gate.file))
        await asyncio.to_thread(gate.wait_entered)
        others = [crowd.send("0") for _ in range(4)]
        await crowd.queued(4)
        gate.open()
        assert (await first).text.splitlines() == [
            '[2, ["new"], 1]',
            '[1, ["again", "new", "new"], 3]',
            '[0, ["again", "new", "new"], 3]',
        ]
        assert [(await other).status_code for other in others] == [200] * 4


async def test_one_item_s_error_is_its_own(server: RunningServer, gate: Gate) -> None:
    """An answer of no known type, or a criterion that raises, ends one request only."""
    async with client() as http:
        crowd = Crowd(server, "count", http)
        first = crowd.send("3", x_file=str(gate.file))
        await asyncio.to_thread(gate.wait_entered)
        criterion = crowd.send("3", x_bad_criterion="1")
        await crowd.queued(1)
        unary = crowd.send("1", x_unserialisable="1", x_unary="1")
        await crowd.queued(2)
        gate.open()
        assert len((await first).text.splitlines()) == 4
        assert (await criterion).status_code == 503
        assert (await criterion).json()["message"].startswith("Prediction failed")
        assert (await unary).status_code == 503
        assert (await unary).json()["message"] == "Unsupported model output data type."


async def test_an_error_in_the_middle_cuts_the_stream(server: RunningServer) -> None:
    """The client sees that the answer is not whole; the worker lives."""
    pids = worker_pids(server, "count")
    async with client() as http:
        crowd = Crowd(server, "count", http)
        with pytest.raises(httpx.RemoteProtocolError):
            await crowd.send("4", x_raise="1")
        assert (await crowd.send("0")).status_code == 200
    assert worker_pids(server, "count") == pids


async def test_a_client_that_leaves_is_dropped_from_the_batch(
    server: RunningServer, tmp_path: Path
) -> None:
    """A request without an end frees its place once its client has gone."""
    async with client() as http:
        crowd = Crowd(server, "count", http)
        url = f"{server.inference}/predictions/count"
        headers = {"x-endless": "1"}
        async with http.stream("POST", url, content="1000000", headers=headers) as endless:
            parts = endless.aiter_bytes()
            await anext(parts)
            joined = (await crowd.send("0")).text
            assert joined == '[0, ["again", "new"], 2]\n'

        def alone() -> bool:
            return httpx.post(url, content="0").text == '[0, ["new"], 1]\n'

        await asyncio.to_thread(wait_until, alone)


async def test_a_request_whose_worker_died_is_tried_again(
    server: RunningServer, gate: Gate
) -> None:
    """One that has had no chunk; who joined with the one that kills is answered."""
    async with client() as http:
        crowd = Crowd(server, "count", http)
        first = crowd.send("1", x_file=str(gate.file))
        await asyncio.to_thread(gate.wait_entered)
        poison, good = crowd.send("1", x_exit="1"), crowd.send("0")
        await crowd.queued(2)
        gate.open()
        with pytest.raises(httpx.RemoteProtocolError):
            await first
        assert (await poison).status_code == 503
        assert (await good).text == '[0, ["new"], 1]\n'


def test_sequences_and_continuous_batching(server: RunningServer) -> None:
    """A sequence's second request joins while its first one streams; handlers end sequences."""
    name = {"ts_request_sequence_id": "s"}
    url = f"{server.inference}/predictions/stateful"
    endless = name | {"x-endless": "1"}
    with httpx.stream("POST", url, content="1000000", headers=endless, timeout=60) as answer:
        parts = answer.iter_bytes()
        next(parts)
        second = httpx.post(url, content="0", headers=name, timeout=60)
        assert second.text == '[0, ["again", "new"], 2]\n'
    ending = httpx.post(url, content="0", headers=name | {"x-end-sequence": "1"}, timeout=60)
    assert ending.headers["ts_request_sequence_end"] == "s"
    for other in ("t", "u"):
        headers = {"ts_request_sequence_id": other, "x-end-sequence": "1"}
        assert httpx.post(url, content="0", headers=headers, timeout=60).status_code == 200
