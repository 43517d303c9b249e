"""Queues have bounds in bytes and in age; what has a bound of its own says so by another status."""

import asyncio
import time
from collections.abc import Iterator

import httpx
import pytest

from flambeau.errors import ErrorKind, FlambeauError
from flambeau.protocols.status import error_body, error_response, json_body
from flambeau.scheduling.deadlines import Deadlines
from flambeau.scheduling.held_bytes import HeldBytes
from flambeau.scheduling.queue import Entry, RequestQueue
from flambeau.testing.echo import Gate, register, write_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.types import InferenceRequest
from tests.scheduling.crowd import Crowd, client


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Queues of 1,000 bytes and half a second; all requests together: 3,000 bytes."""
    store = tmp_path_factory.mktemp("store")
    for name in ("bytes", "other", "third", "age"):
        write_model(store, name)
    write_model(store, "full", jobQueueSize=1)
    with running_server(
        store,
        tmp_path_factory.mktemp("cache"),
        job_queue_bytes=1_000,
        max_pending_bytes=3_000,
        job_queue_timeout=0.5,
    ) as running:
        for name in ("bytes", "other", "third", "age", "full"):
            assert register(running, name).status_code == 200
        yield running


async def test_a_queue_is_bounded_in_bytes(server: RunningServer, gate: Gate) -> None:
    """What does not fit gets 503 that names the key; one request alone is let in however large."""
    async with client() as http:
        crowd = Crowd(server, "bytes", http)
        running = crowd.send("x" * 600, **gate.headers)
        await asyncio.to_thread(gate.wait_entered)
        small = crowd.send("x" * 300)
        await crowd.queued(1)
        refused = await crowd.send("x" * 300)
        assert refused.status_code == 503
        assert "job_queue_bytes=1000" in refused.json()["message"]
        assert int(refused.headers["retry-after"]) >= 1
        gate.open()
        assert [(await each).status_code for each in (running, small)] == [200, 200]
        assert (await crowd.send("x" * 2_000)).status_code == 200
        assert (await crowd.send("x" * 300)).status_code == 200


async def test_all_bodies_together_are_bounded(server: RunningServer, gate: Gate) -> None:
    """Requests to several models, and a body that is only half there."""
    async with client() as http:
        running = [
            Crowd(server, model, http).send("x" * size, **gate.headers)
            for model, size in (("bytes", 1), ("other", 2_000))
        ]
        await asyncio.to_thread(gate.wait_entered, 2)
        reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
        head = b"POST /predictions/third HTTP/1.1\r\nhost: a\r\ncontent-length: 950\r\n\r\n"
        writer.write(head + b"x" * 900)
        async with asyncio.timeout(10):
            while "max_pending_bytes=3000" not in (
                (refused := await Crowd(server, "third", http).send("x" * 400)).text
            ):
                assert refused.status_code == 200
        assert refused.status_code == 503
        writer.write(b"x" * 50)
        assert b" 200 " in await reader.readline()
        writer.close()
        gate.open()
        assert [(await each).status_code for each in running] == [200, 200]
        assert (await Crowd(server, "third", http).send("x" * 400)).status_code == 200


async def test_nobody_waits_longer_than_the_bound(server: RunningServer, gate: Gate) -> None:
    """Without clientTimeoutInMills, too: 504 that names the key, and it is never computed (G1)."""
    async with client() as http:
        crowd = Crowd(server, "age", http)
        running = crowd.send(**gate.headers)
        await asyncio.to_thread(gate.wait_entered)
        begin = time.monotonic()
        late = [crowd.send("late") for _ in range(3)]
        answers = [await each for each in late]
        assert 0.45 <= time.monotonic() - begin <= 1.5
        assert [answer.status_code for answer in answers] == [504] * 3
        assert "job_queue_timeout" in answers[0].json()["message"]
        assert int(answers[0].headers["retry-after"]) >= 1
        gate.open()
        assert (await running).status_code == 200


def test_a_limit_of_its_own_is_a_429() -> None:
    """As for a sequence that sends too much; TorchServe, and so `torchserve_statuses`, says 503."""
    error = FlambeauError(ErrorKind.OWN_LIMIT, "too many")
    assert error_response(error)[0] == 429
    assert error_response(error, torchserve=True)[0] == 503


async def test_a_body_for_a_full_queue_is_refused_before_it_comes(
    server: RunningServer, gate: Gate
) -> None:
    """Whoever asks first (`Expect: 100-continue`) hears the 503 instead of `100 Continue`."""
    async with client() as http:
        crowd = Crowd(server, "full", http)
        running = crowd.send(**gate.headers)
        await asyncio.to_thread(gate.wait_entered)
        waiting = crowd.send()
        await crowd.queued(1)
        reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
        writer.write(
            b"POST /predictions/full HTTP/1.1\r\nhost: a\r\ncontent-length: 90000\r\n"
            b"expect: 100-continue\r\n\r\n"
        )
        assert b" 503 " in await reader.readline()
        writer.close()
        gate.open()
        assert [(await each).status_code for each in (running, waiting)] == [200, 200]


def test_an_error_s_body_is_json_as_every_other() -> None:
    """It is made by hand, for its speed: indented by two, whatever the text holds."""
    for text in ("full", 'a "quote" \\ and\nlines', "Überlast \u2028 \x00", ""):
        document = {"code": 503, "type": "ServiceUnavailableException", "message": text}
        assert error_body(503, "ServiceUnavailableException", text) == json_body(document)


async def test_a_refusal_leaves_the_connection_open(server: RunningServer, gate: Gate) -> None:
    """Unlike other errors: a new connection would cost the busy server more than the answer."""
    async with client() as http:
        crowd = Crowd(server, "full", http)
        running = crowd.send(**gate.headers)
        await asyncio.to_thread(gate.wait_entered)
        waiting = crowd.send()
        await crowd.queued(1)
        reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
        for _ in range(3):
            writer.write(
                b"POST /predictions/full HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx"
            )
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 503 " in head
            assert b"connection: keep-alive" in head
            length = int(head.lower().partition(b"content-length: ")[2].split()[0])
            await reader.readexactly(length)
        writer.close()
        gate.open()
        assert [(await each).status_code for each in (running, waiting)] == [200, 200]


def test_one_is_let_in_however_large() -> None:
    """A body that is allowed at all finds room once nothing else is held."""
    held = HeldBytes(100, "key")
    held.check(1_000)
    held.add(1_000)
    with pytest.raises(FlambeauError, match="key=100"):
        held.check(1)
    held.give_back(1_000)
    held.check(1)


async def test_deadlines_are_looked_at_in_their_order() -> None:
    """One timer serves all, also those that come later and must go sooner."""
    queue = RequestQueue(10)
    told: list[str] = []
    done = asyncio.Event()

    def late(entries: list[Entry]) -> None:
        for entry in entries:
            told.append(entry.request.id)
            entry.fail(FlambeauError(ErrorKind.TIMEOUT, "late"))
        queue.drop_settled()
        if len(told) == 3:
            done.set()

    deadlines = Deadlines(queue, late, time.monotonic)
    now = time.monotonic()
    for name, due in (("third", now + 0.09), ("first", now + 0.03), ("second", now + 0.06)):
        entry = Entry(InferenceRequest(name, {}, []), now, due)
        queue.put(entry)
        deadlines.watch(entry)
    queue.put(Entry(InferenceRequest("never", {}, []), now))
    await asyncio.wait_for(done.wait(), 5)
    assert told == ["first", "second", "third"]
    assert [entry.request.id for entry in queue] == ["never"]


def port(server: RunningServer) -> int:
    """Of the inference address."""
    found = httpx.URL(server.inference).port
    assert found is not None
    return found
