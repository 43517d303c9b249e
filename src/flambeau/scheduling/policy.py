"""The batch policy: a pure function of what waits, the time and the limits. No clock, no I/O.

Work-conserving: whenever a worker is free and something waits, a batch goes out. A lone request is
never held back in the hope of company, so `maxBatchDelay` is an upper bound that is always met.
"""

from collections.abc import Iterable
from typing import NamedTuple

MAX_BATCH_BYTES = 64 * 1024 * 1024
"""Bytes of all bodies of a batch; a larger one runs alone."""


class Waiting(NamedTuple):
    """What the policy may know of a waiting entry.

    `deadline` is monotonic seconds or None, `size` the body's bytes; `alone` entries (describe
    requests) are a batch of one.
    """

    settled: bool
    attempts: int
    deadline: float | None
    size: int = 0
    alone: bool = False


class Room(NamedTuple):
    """What a worker can take now: `size` more entries.

    `busy`: it runs other batches at the same time. `joining`: the entries would join a batch that
    runs (continuous batching).
    """

    worker: int
    size: int
    busy: bool = False
    joining: bool = False


class Decision(NamedTuple):
    """Indices into the waiting entries: run these now, answer those as too late, forget the rest."""

    run: list[int]
    expired: list[int]
    forget: list[int]


def decide(waiting: Iterable[Waiting], now: float, room: Room) -> Decision:
    """Choose the next batch from the head of the queue.

    Settled entries (client gone) are forgotten, late ones expire: neither costs a forward pass. An
    entry that was in a batch whose worker died or timed out runs alone on its worker, so that it
    cannot harm neighbours twice.
    """
    decision = Decision([], [], [])
    size = 0
    for index, entry in enumerate(waiting):
        if entry.settled:
            decision.forget.append(index)
        elif entry.deadline is not None and now >= entry.deadline:
            decision.expired.append(index)
        elif entry.attempts or entry.alone:
            disturbs = room.joining or (room.busy and entry.attempts > 0)
            if not decision.run and not disturbs:
                decision.run.append(index)
            break
        else:
            size += entry.size
            if decision.run and size > MAX_BATCH_BYTES:
                break
            decision.run.append(index)
            if len(decision.run) == room.size:
                break
    return decision
