"""Asynchronous workers over HTTP (contract.md section 5.13)."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flambeau.testing.echo import predict, register, scale, worker_pids, write_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until
from tests.scheduling.crowd import Crowd, client

# Requests meet: `x-wait` waits for the event that `x-set` sets.
MEET = """
import asyncio, os, threading, time
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.utils.util import PredictionException

events = {}
running = 0

def event(name):
    return events.setdefault(name, asyncio.Event())

async def handle(data, context):
    global running
    running += 1
    try:
        return [await answer(data, context)]
    finally:
        running -= 1

async def answer(data, context):
    headers = context.get_all_request_header(0)
    seen = getattr(context, "seen", [])
    seen.append(context.get_request_id(0))
    context.seen = seen
    if "x-stream" in headers:
        for part in range(int(headers["x-stream"])):
            send_intermediate_predict_response(
                [f"part {part} "], context.request_ids, "", 200, context)
    if "x-wait" in headers:
        try:
            await event(headers["x-wait"]).wait()
        except asyncio.CancelledError:
            event(headers["x-wait"] + " cancelled").set()
            raise
    while "x-file" in headers and not os.path.exists(headers["x-file"]):
        await asyncio.sleep(0.01)
    if "x-set" in headers:
        event(headers["x-set"]).set()
    if "x-block" in headers:
        threading.Event().wait()
    if "x-raise" in headers:
        raise ValueError("secret")
    if "x-fail" in headers:
        raise PredictionException("not today", 418)
    if "x-cuda" in headers:
        raise RuntimeError("CUDA error: device-side assert triggered")
    if "x-exit" in headers:
        os._exit(3)
    context.set_response_header(0, "x-mine", headers.get("x-mine", ""))
    return {"batch": len(data), "seen": len(seen), "running": running, "pid": os.getpid()}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """`meet`: batches of 4, a queue of 10; `hasty`: answers within a second."""
    store = tmp_path_factory.mktemp("store")
    write_model(store, "meet", MEET, "1.0", asyncCommunication=True, batchSize=4)
    write_model(store, "few", MEET, "1.0", asyncCommunication=True, jobQueueSize=3)
    write_model(store, "hasty", MEET, "1.0", asyncCommunication=True, responseTimeout=1)
    with running_server(store, tmp_path_factory.mktemp("cache")) as running:
        for name in ("meet", "few", "hasty"):
            assert register(running, name).status_code == 200
        yield running


async def started(crowd: Crowd, count: int) -> None:
    """Wait until `count` requests run beside the one that asks."""
    while (await crowd.send()).json()["running"] != count + 1:
        pass


async def test_many_requests_run_at_once_each_alone(server: RunningServer) -> None:
    """Twenty wait for one that comes after them; each is a batch of one, with its own context."""
    async with client() as http:
        crowd = Crowd(server, "meet", http)
        waiters = [crowd.send(x_wait="go", x_mine=str(number)) for number in range(20)]
        await started(crowd, 20)
        assert (await crowd.send(x_set="go")).status_code == 200
        for number, waiter in enumerate(waiters):
            answer = await waiter
            assert answer.headers["x-mine"] == str(number)
            assert (answer.json()["batch"], answer.json()["seen"]) == (1, 1)


async def test_streams(server: RunningServer) -> None:
    """Chunks as they are sent; the returned value is the last one."""
    async with client() as http:
        crowd = Crowd(server, "meet", http)
        waiter = crowd.send(x_wait="streamed")
        answer = await crowd.send(x_stream="3", x_set="streamed")
        assert answer.text.startswith("part 0 part 1 part 2 {")
        assert answer.headers["transfer-encoding"] == "chunked"
        assert "ts_stream_next" not in answer.headers
        assert (await waiter).status_code == 200


async def test_an_error_reaches_its_own_request_only(server: RunningServer) -> None:
    """TorchServe sends it to every request of the worker, finished ones too."""
    async with client() as http:
        crowd = Crowd(server, "meet", http)
        waiters = [crowd.send(x_wait="calm") for _ in range(3)]
        await started(crowd, 3)
        raised = await crowd.send(x_raise="1")
        assert raised.status_code == 503
        assert raised.json()["message"].startswith("Prediction failed")
        assert (await crowd.send(x_fail="1")).status_code == 418
        await crowd.send(x_set="calm")
        assert [(await waiter).status_code for waiter in waiters] == [200] * 3


async def test_the_response_timeout_holds_for_one_request(server: RunningServer) -> None:
    """It is answered and its task is cancelled; the worker goes on."""
    pids = worker_pids(server, "hasty")
    async with client() as http:
        crowd = Crowd(server, "hasty", http)
        late = await crowd.send(x_wait="never")
        assert late.status_code in (503, 504)
        assert "Worker died" not in late.json()["message"]
        assert (await crowd.send(x_wait="never cancelled")).status_code == 200
    assert worker_pids(server, "hasty") == pids


async def test_a_blocked_event_loop_is_replaced(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler that never awaits cannot be cancelled: after a while its process is ended."""
    monkeypatch.setattr("flambeau.supervisor.process._CANCEL_SECONDS", 0.2)
    pids = worker_pids(server, "hasty")
    async with client() as http:
        crowd = Crowd(server, "hasty", http)
        assert (await crowd.send(x_block="1")).status_code in (503, 504)
        while (answer := await crowd.send()).status_code != 200:
            pass  # it was given to the process that is being ended
        assert answer.json()["pid"] not in pids


async def test_a_client_that_leaves_cancels_its_task(server: RunningServer) -> None:
    """The handler sees `CancelledError`."""
    async with client() as http:
        crowd = Crowd(server, "meet", http)
        leaver = crowd.send(x_wait="abandoned")
        await started(crowd, 1)
        leaver.cancel()
        assert (await crowd.send(x_wait="abandoned cancelled")).status_code == 200


async def test_as_many_run_as_may_wait(server: RunningServer) -> None:
    """With jobQueueSize 3: three run, three wait, the next one is refused."""
    async with client() as http:
        crowd = Crowd(server, "few", http)
        running = [crowd.send(x_wait="free", x_set="free") for _ in range(2)]
        await started(crowd, 2)
        running.append(crowd.send(x_wait="free"))
        waiting = [crowd.send(x_set="free")]
        await crowd.queued(1)
        waiting += [crowd.send(x_set="free") for _ in range(2)]
        await crowd.queued(3)
        assert (await crowd.send()).status_code == 503
        running[2].cancel()  # makes room for one that sets the others free
        assert [(await one).status_code for one in (*running[:2], *waiting)] == [200] * 5


@pytest.mark.parametrize(("cause", "status"), [("x_exit", 503), ("x_cuda", 507)])
async def test_a_dying_worker_and_a_spoilt_device(
    server: RunningServer, tmp_path: Path, cause: str, status: int
) -> None:
    """Who was beside the cause is answered by the next worker; the cause gets its own error."""
    pids = worker_pids(server, "meet")
    gate = tmp_path / "gate"
    async with client() as http:
        crowd = Crowd(server, "meet", http)
        beside = crowd.send(x_file=str(gate))
        await started(crowd, 1)
        answering = crowd.send(**{cause: "1"})
        await asyncio.to_thread(
            wait_until, lambda: not set(pids) & set(worker_pids(server, "meet"))
        )
        gate.touch()
        assert (await answering).status_code == status
        answer = await beside
        assert answer.status_code == 200
        assert answer.json()["pid"] not in pids


async def test_what_runs_is_finished_when_the_worker_is_taken_away(
    server: RunningServer, tmp_path: Path
) -> None:
    """Scaled to none with two requests under way: both are answered; the next one is refused."""
    async with client() as http:
        crowd = Crowd(server, "meet", http)
        gate = tmp_path / "gate"
        waiters = [crowd.send(x_file=str(gate), x_stream="1") for _ in range(2)]
        await started(crowd, 2)
        scaling = asyncio.ensure_future(asyncio.to_thread(scale, server, "meet", 0))
        while (await crowd.send()).status_code != 503:
            pass
        gate.touch()
        for one in waiters:
            assert (await one).status_code == 200
        await scaling
        await asyncio.to_thread(scale, server, "meet", 1)
        wait_until(lambda: predict(server, "meet").status_code == 200)


def test_an_asynchronous_handler_without_the_key(tmp_path: Path) -> None:
    """TorchServe's error; the log says which key is missing."""
    write_model(tmp_path / "store", "plain", MEET)
    with running_server(tmp_path / "store", tmp_path / "cache") as running:
        assert register(running, "plain").status_code == 200
        answer = httpx.post(f"{running.inference}/predictions/plain")
        assert (answer.status_code, answer.json()["message"]) == (
            503,
            "Invalid model predict output",
        )
