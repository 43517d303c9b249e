"""Who is accepted: job tickets (contract.md section 4.1), and what is never batched (5.14)."""

import asyncio
from collections.abc import Iterator

import pytest

from flambeau.testing.echo import Gate, predict, register, write_model
from flambeau.testing.server import RunningServer, running_server
from tests.scheduling.crowd import Crowd, client


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """`ticket`: two workers, batches of 4, tickets; `batch`: one worker, batches of 4."""
    store = tmp_path_factory.mktemp("store")
    write_model(store, "ticket", useJobTicket=True, minWorkers=2, maxWorkers=2, batchSize=4)
    write_model(store, "batch", batchSize=4)
    with running_server(store, tmp_path_factory.mktemp("cache")) as running:
        assert register(running, "ticket").status_code == 200
        assert register(running, "batch").status_code == 200
        yield running


async def test_a_request_needs_a_free_worker(server: RunningServer, gate: Gate) -> None:
    """Two workers answer; a third request gets 503 at once, until one of them is free again."""
    async with client() as http:
        crowd = Crowd(server, "ticket", http)
        running = [crowd.send(**gate.headers) for _ in range(2)]
        await asyncio.to_thread(gate.wait_entered, 2)
        refused = await crowd.send()
        assert refused.status_code == 503
        assert refused.json() == {
            "code": 503,
            "type": "ServiceUnavailableException",
            "message": 'Model "ticket" has no worker to serve inference request. Please use scale'
            " workers API to add workers. If this is a sequence inference, please check if it is"
            " closed, or expired; or exceeds maxSequenceJobQueueSize",
        }
        gate.open()
        assert [(await one).status_code for one in running] == [200, 200]
    assert predict(server, "ticket").status_code == 200


async def test_a_describe_request_is_a_batch_of_one(server: RunningServer, gate: Gate) -> None:
    """It keeps its place in the queue; what is before and behind it is batched without it."""
    async with client() as http:
        crowd = Crowd(server, "batch", http)
        first = crowd.send(**gate.headers)
        await asyncio.to_thread(gate.wait_entered)
        before = [crowd.send() for _ in range(2)]
        await crowd.queued(2)
        url = f"{server.management}/models/batch?customized=true"
        asking = asyncio.ensure_future(http.get(url))
        await crowd.queued(3)
        behind = crowd.send()
        await crowd.queued(4)
        gate.open()
        await first
        assert (await asking).json()[0]["customizedMetadata"]["batch"] == 1
        assert [(await one).json()["batch"] for one in (*before, behind)] == [2, 2, 1]
