"""The batch policy: a pure function of what waits, the time and the limits. No clock, no I/O.

Work-conserving: whenever a worker is free and something waits, a batch goes out. Only a model whose
owner asks for it, by a `maxBatchDelay` of their own, holds a batch that is not full back: for as
long as company keeps coming, and no longer than its oldest request may wait (contract.md section
5.14; TorchServe makes a lone request wait the whole delay).
"""

from collections.abc import Iterable
from typing import NamedTuple

MAX_BATCH_BYTES = 64 * 1024 * 1024
"""Bytes of all bodies of a batch; a larger one runs alone."""

QUIET_SECONDS = (0.02, 0.1)
"""When nobody has come for a tenth of a batch's longest wait, within these bounds, nobody is taken
to be coming."""


class Waiting(NamedTuple):
    """What the policy may know of a waiting entry.

    `deadline` is monotonic seconds or None, `size` the body's bytes, `tokens` what it will probably
    cost; `alone` entries (describe requests) are a batch of one.
    """

    settled: bool
    attempts: int
    deadline: float | None
    size: int = 0
    alone: bool = False
    arrived: float = 0.0
    tokens: int = 0


class LaneRoom(NamedTuple):
    """What a worker that runs several batches can take of one lane: entries, and their tokens."""

    size: int
    tokens: int


class Room(NamedTuple):
    """What a worker can take now: `size` more entries.

    `wait`: seconds for which a batch that is not full may be held back, at most. `busy`: it runs
    other batches at the same time. `joining`: the entries would join a batch that runs (continuous
    batching). `lanes`: for a worker that runs several batches, its room for interactive requests
    and for bulk work; None: `size` is all that counts.
    """

    worker: int
    size: int
    busy: bool = False
    joining: bool = False
    wait: float = 0.0
    lanes: tuple[LaneRoom, LaneRoom] | None = None


class Decision(NamedTuple):
    """Indices into the waiting entries: run these now, answer those as too late, forget the rest.

    `again_at` is when to ask again, if entries are held back.
    """

    run: list[int]
    expired: list[int]
    forget: list[int]
    again_at: float | None = None

    def decided(self) -> int:
        """How many entries, from the head of the queue, are no longer waiting."""
        return len(self.run) + len(self.expired) + len(self.forget)


def decide(
    waiting: Iterable[Waiting], now: float, room: Room, tokens: int | None = None
) -> Decision:
    """Choose the next batch from the head of the queue; it may cost so many tokens, None: any.

    A room for nobody gets nobody. Settled entries (client gone) are forgotten, late ones expire: neither costs a forward pass. An
    entry that was in a batch whose worker died or timed out runs alone on its worker, so that it
    cannot harm neighbours twice.
    """
    decision = Decision([], [], [])
    if room.size <= 0:
        return decision
    size = cost = 0
    go_at = latest = now
    for index, entry in enumerate(waiting):
        if entry.settled:
            decision.forget.append(index)
        elif entry.deadline is not None and now >= entry.deadline:
            decision.expired.append(index)
        elif entry.attempts or entry.alone:
            disturbs = room.joining or (room.busy and entry.attempts > 0)
            if not decision.run and not disturbs:
                decision.run.append(index)
            go_at = now
            break
        else:
            size += entry.size
            cost += entry.tokens
            too_dear = tokens is not None and cost > tokens
            if decision.run and (size > MAX_BATCH_BYTES or too_dear):
                go_at = now
                break
            if room.wait and not room.joining:
                latest = latest if decision.run else entry.arrived + room.wait
                go_at = min(latest, entry.arrived + _quiet(room.wait))
            decision.run.append(index)
            if len(decision.run) == room.size:
                go_at = now
                break
    return decision if go_at <= now else _held_back(decision, go_at)


def _quiet(wait: float) -> float:
    shortest, longest = QUIET_SECONDS
    return min(max(shortest, wait / 10), longest)


def _held_back(decision: Decision, go_at: float) -> Decision:
    """The same decision without the batch and what is behind its first entry."""
    first = decision.run[0]
    expired = [index for index in decision.expired if index < first]
    forget = [index for index in decision.forget if index < first]
    return Decision([], expired, forget, go_at)
