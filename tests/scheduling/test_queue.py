"""The queue and its entries: capacity, order, and replies that are settled once."""

import asyncio
import contextlib

import pytest

from flambeau.errors import ErrorKind, FlambeauError
from flambeau.scheduling import queue as queue_module
from flambeau.scheduling.policy import LaneRoom, Room
from flambeau.scheduling.queue import Entry, RequestQueue
from flambeau.types import Chunk, Field, InferenceRequest


def entry(name: str = "a", size: int = 1) -> Entry:
    return Entry(InferenceRequest(name, {}, [Field("body", "", b"x" * size)]), 0.0)


def names(queue: RequestQueue) -> list[str]:
    return [each.request.id for each in queue]


def test_capacity_counts_those_who_still_wait() -> None:
    """A full queue refuses, until somebody in it has left."""
    queue = RequestQueue(2)
    first = entry("first")
    queue.put(first)
    queue.put(entry("second"))
    with pytest.raises(FlambeauError, match="job_queue_size") as refused:
        queue.put(entry("third"))
    assert refused.value.kind is ErrorKind.OVERLOADED
    first.cancel()
    queue.drop_settled()
    queue.put(entry("fourth"))
    assert names(queue) == ["second", "fourth"]


def test_entries_that_were_taken_return_to_the_head_in_order() -> None:
    """They were accepted before those behind them."""
    queue = RequestQueue(10)
    for name in "abcd":
        queue.put(entry(name))
    taken = queue.take(Room(0, 2), 0.0)
    assert [each.request.id for each in taken.run] == ["a", "b"]
    queue.put_back(taken.run)
    assert names(queue) == list("abcd")
    assert [each.request.id for each in queue.drain()] == list("abcd")
    assert len(queue) == 0


async def test_chunks_are_read_in_order_and_the_last_settles() -> None:
    """A reader may wait before, between and after the parts."""
    one = entry()

    async def read() -> list[bytes]:
        return [chunk.body async for chunk in one.chunks()]

    reading = asyncio.ensure_future(read())
    for body, last in ((b"a", False), (b"b", False), (b"c", True)):
        await asyncio.sleep(0)
        assert not one.settled
        one.push(Chunk(body, last))
    assert await reading == [b"a", b"b", b"c"]
    assert one.settled


async def test_a_reply_is_settled_once() -> None:
    """What comes after the end is dropped, and the owner hears of one outcome."""
    outcomes: list[FlambeauError | None] = []
    for end in (
        Entry.cancel,
        lambda e: e.push(Chunk(b"x")),
        lambda e: e.fail(FlambeauError(ErrorKind.TIMEOUT, "t")),
    ):
        one = entry()
        outcomes.clear()
        one.on_settled = lambda _entry, error: outcomes.append(error)
        end(one)
        one.cancel()
        one.push(Chunk(b"y"))
        one.fail(FlambeauError(ErrorKind.INTERNAL, "late"))
        assert len(outcomes) == 1
        with pytest.raises(FlambeauError) if one._error else contextlib.nullcontext():
            await one.next()


async def test_an_error_after_some_parts_comes_after_them() -> None:
    """The parts that were produced are read first."""
    one = entry()
    one.push(Chunk(b"a", last=False))
    one.fail(FlambeauError(ErrorKind.WORKER_DIED, "died"))
    assert (await one.next()).body == b"a"
    with pytest.raises(FlambeauError, match="died"):
        await one.next()


async def test_a_client_that_does_not_read_its_stream_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Unread parts are bounded; one large part alone is fine, and so is a client that reads."""
    monkeypatch.setattr(queue_module, "MAX_UNREAD_BYTES", 100)
    slow, quick, large = entry(), entry(), entry()
    large.push(Chunk(b"x" * 1000))
    assert len((await large.next()).body) == 1000
    for _ in range(50):
        slow.push(Chunk(b"x" * 10, last=False))
        quick.push(Chunk(b"x" * 10, last=False))
        await quick.next()
    assert not quick.settled
    assert slow.settled
    with pytest.raises(FlambeauError, match="too slowly"):
        await slow.next()


def lane_entry(name: str, tokens: int, *, bulk: bool = False) -> Entry:
    made = entry(name)
    made.tokens, made.bulk = tokens, bulk
    return made


def lane_room(interactive: int, bulk: int, size: int = 32, *, busy: bool = False) -> Room:
    return Room(0, 32, busy=busy, lanes=(LaneRoom(size, interactive), LaneRoom(size, bulk)))


def test_a_batch_costs_no_more_tokens_than_there_is_room_for() -> None:
    """A worker gets what its next forward pass can hold; the first entry goes in any case."""
    queue = RequestQueue(10)
    for name, tokens in (("a", 300), ("b", 150), ("c", 100), ("d", 10)):
        queue.put(lane_entry(name, tokens))
    room = lane_room(500, 500)
    assert [each.request.id for each in queue.take(room, 0.0).run] == ["a", "b"]
    assert [each.request.id for each in queue.take(lane_room(1, 1), 0.0).run] == ["c"]
    assert not queue.take(lane_room(0, 500), 0.0).run, "no room in its lane"
    assert names(queue) == ["d"]


def test_bulk_work_yields_but_is_not_forgotten() -> None:
    """While single requests wait, bulk work has one turn in four, and all turns when none wait."""
    queue = RequestQueue(100)
    for number in range(8):
        queue.put(lane_entry(f"bulk{number}", 10, bulk=True))
    for number in range(6):
        queue.put(lane_entry(f"single{number}", 10))
    order = [queue.take(Room(0, 1), 0.0).run[0].request.id for _ in range(14)]
    assert [name.startswith("bulk") for name in order[:8]] == [
        False, False, False, True, False, False, False, True,
    ]  # fmt: skip
    assert sorted(order) == sorted(
        [f"bulk{n}" for n in range(8)] + [f"single{n}" for n in range(6)]
    )
    assert [name for name in order if name.startswith("bulk")] == [f"bulk{n}" for n in range(8)]


def test_a_lane_without_room_does_not_shut_out_the_other() -> None:
    """A worker full of bulk work still takes single requests."""
    queue = RequestQueue(100)
    queue.put(lane_entry("bulk", 1000, bulk=True))
    queue.put(lane_entry("single", 5))
    assert queue.take(lane_room(100, 0), 0.0).run[0].request.id == "single"
    assert not queue.take(lane_room(100, 0), 0.0).run
    assert queue.take(lane_room(100, 50), 0.0).run[0].request.id == "bulk"


def test_a_worker_that_has_enough_entries_gets_no_more() -> None:
    """However few tokens they have: batchSize bounds what a worker is sent."""
    queue = RequestQueue(100)
    for number in range(50):
        queue.put(lane_entry(f"{number}", 1))
    assert not queue.take(lane_room(1000, 1000, size=0), 0.0).run
    assert len(queue.take(lane_room(1000, 1000, size=3), 0.0).run) == 3


def test_a_retried_entry_is_waited_for_by_both_lanes() -> None:
    """It runs alone: until it has, its worker gets nothing else, so that it is free at some time."""
    queue = RequestQueue(100)
    retried = lane_entry("retried", 5)
    retried.attempts = 1
    queue.put(retried)
    queue.put(lane_entry("behind", 5))
    queue.put(lane_entry("bulk", 5, bulk=True))
    assert not queue.take(lane_room(100, 100, busy=True), 0.0).run
    assert [each.request.id for each in queue.take(lane_room(100, 100), 0.0).run] == ["retried"]
