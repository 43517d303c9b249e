"""The batch policy as a table: what waits in, what to run, expire and forget out."""

import pytest

from flambeau.scheduling.policy import MAX_BATCH_BYTES, QUIET_SECONDS, Room, Waiting, decide

NEW = Waiting(settled=False, attempts=0, deadline=None)
GONE = Waiting(settled=True, attempts=0, deadline=None)
LATE = Waiting(settled=False, attempts=0, deadline=9.9)
DUE = Waiting(settled=False, attempts=0, deadline=10.0)
EARLY = Waiting(settled=False, attempts=0, deadline=10.1)
RETRY = Waiting(settled=False, attempts=1, deadline=None)
GONE_LATE = Waiting(settled=True, attempts=1, deadline=9.0)
SOLO = NEW._replace(alone=True)
HALF = NEW._replace(size=MAX_BATCH_BYTES // 2)
HUGE = NEW._replace(size=MAX_BATCH_BYTES + 1)


@pytest.mark.parametrize(
    ("waiting", "batch_size", "run", "expired", "forget"),
    [
        ([], 4, [], [], []),
        ([NEW], 1, [0], [], []),
        ([NEW], 4, [0], [], []),
        ([NEW, NEW, NEW], 2, [0, 1], [], []),
        ([GONE, NEW], 4, [1], [], [0]),
        ([NEW, GONE, NEW, GONE], 2, [0, 2], [], [1]),
        ([GONE, GONE], 4, [], [], [0, 1]),
        ([LATE, NEW], 4, [1], [0], []),
        ([DUE], 4, [], [0], []),
        ([EARLY], 4, [0], [], []),
        ([NEW, LATE, NEW], 4, [0, 2], [1], []),
        ([LATE, GONE, DUE, NEW, NEW], 1, [3], [0, 2], [1]),
        ([GONE_LATE, NEW], 4, [1], [], [0]),
        ([RETRY, NEW], 4, [0], [], []),
        ([NEW, RETRY], 4, [0], [], []),
        ([NEW, RETRY, NEW], 4, [0], [], []),
        ([GONE, LATE, RETRY, NEW], 4, [2], [1], [0]),
        ([HALF, HALF, NEW], 4, [0, 1, 2], [], []),
        ([HALF, HALF, HALF], 4, [0, 1], [], []),
        ([HUGE, NEW], 4, [0], [], []),
        ([NEW, HUGE], 4, [0], [], []),
    ],
)
def test_decision(
    waiting: list[Waiting], batch_size: int, run: list[int], expired: list[int], forget: list[int]
) -> None:
    """Oldest first; leavers are forgotten, late ones expire, retries and giants run alone."""
    decision = decide(waiting, 10.0, Room(0, batch_size))
    assert (decision.run, decision.expired, decision.forget) == (run, expired, forget)


@pytest.mark.parametrize(
    ("waiting", "busy", "joining", "run"),
    [
        ([NEW, RETRY], True, False, [0]),
        ([RETRY], True, False, []),
        ([RETRY], False, True, []),
        ([SOLO, NEW], False, False, [0]),
        ([NEW, SOLO, NEW], False, False, [0]),
        ([SOLO], True, False, [0]),
        ([SOLO], False, True, []),
        ([NEW, SOLO], False, True, [0]),
    ],
)
def test_company(waiting: list[Waiting], busy: bool, joining: bool, run: list[int]) -> None:
    """A retry keeps away from whatever runs; a describe request only from others' batches."""
    room = Room(0, 4, busy=busy, joining=joining)
    assert decide(waiting, 10.0, room).run == run


SOON = NEW._replace(arrived=9.995)
QUIET = NEW._replace(arrived=9.5)
LONG_AGO = NEW._replace(arrived=8.0)


@pytest.mark.parametrize(
    ("waiting", "run", "again_at"),
    [
        ([SOON], [], 9.995 + QUIET_SECONDS[1]),
        ([QUIET], [0], None),
        ([SOON._replace(arrived=9.01), SOON], [0, 1], None),
        ([SOON, SOON], [0, 1], None),
        ([LONG_AGO], [0], None),
        ([LONG_AGO, GONE, SOON], [0, 2], None),
        ([SOON, GONE, LATE], [], 9.995 + QUIET_SECONDS[1]),
        ([GONE, LATE, SOON], [], 9.995 + QUIET_SECONDS[1]),
        ([SOON, RETRY], [0], None),
        ([RETRY], [0], None),
        ([SOON._replace(size=MAX_BATCH_BYTES + 1), SOON], [0], None),
        ([SOLO], [0], None),
    ],
)
def test_holding_back(waiting: list[Waiting], run: list[int], again_at: float | None) -> None:
    """A batch of 2 that is not full goes once nobody has come for a moment."""
    decision = decide(waiting, 10.0, Room(0, 2, wait=1.0))
    assert (decision.run, decision.again_at) == (run, again_at)
    assert sorted([*decision.run, *decision.expired, *decision.forget]) == list(
        range(decision.decided())
    )
    assert decide(waiting, 10.0, Room(0, 2, joining=True, wait=1.0)).again_at is None


def test_company_that_keeps_coming_has_an_end() -> None:
    """However many come, the batch goes once its oldest entry has waited for as long as allowed."""
    old = NEW._replace(arrived=9.005)
    held = decide([old, SOON], 10.0, Room(0, 8, wait=1.0))
    assert (held.run, held.again_at) == ([], 10.005)
    assert decide([old, SOON], 10.005, Room(0, 8, wait=1.0)).run == [0, 1]


def test_decided_entries_are_the_head_of_the_queue() -> None:
    """The batcher removes as many from the head as were decided: there may be no gap."""
    kinds = [NEW, GONE, LATE, RETRY]
    for code in range(4**5):
        waiting = [kinds[code // 4**place % 4] for place in range(5)]
        for batch_size in (1, 2, 5):
            decision = decide(waiting, 10.0, Room(0, batch_size))
            decided = sorted([*decision.run, *decision.expired, *decision.forget])
            assert decided == list(range(len(decided)))
            assert len(decision.run) <= batch_size
