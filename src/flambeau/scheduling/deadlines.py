"""How long a request may wait for a worker, and one timer that answers those that have."""

import asyncio
from collections.abc import Callable, Iterable
from typing import NamedTuple

from flambeau.scheduling.queue import Entry

_SHORTEST_SECONDS = 0.001
"""A loop's timers may come a little early; the next one comes at least so much later."""


class Patience(NamedTuple):
    """For how many seconds a request of a model may wait until a worker begins with it.

    `usual` holds where a worker is there, `loading` where the first one still loads the model.
    `again` is what a request gets anew that was on a worker which was lost, 0 for nothing: where
    the bound is the client's. `key` names the setting that a client is told of.
    """

    usual: float
    loading: float
    again: float
    key: str


class Deadlines:
    """Looks for entries that wait beyond their deadlines. Sleeps while none has one.

    `late` gets those that are too late, still in the queue.
    """

    def __init__(
        self,
        waiting: Iterable[Entry],
        late: Callable[[list[Entry]], None],
        clock: Callable[[], float],
    ) -> None:
        self._waiting = waiting
        self._late = late
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0

    def watch(self, entry: Entry) -> None:
        """An entry waits, perhaps with a deadline."""
        if entry.deadline is not None:
            self._look_at(entry.deadline)

    def stop(self) -> None:
        """Nobody waits any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_at(self, when: float) -> None:
        if self._timer is not None:
            if self._at <= when:
                return
            self._timer.cancel()
        self._at = when
        delay = max(when - self._clock(), _SHORTEST_SECONDS)
        self._timer = asyncio.get_running_loop().call_later(delay, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._clock()
        waiting = [entry for entry in self._waiting if not entry.settled]
        late = [each for each in waiting if each.deadline is not None and each.deadline <= now]
        if late:
            self._late(late)
        for entry in waiting:
            if not entry.settled:
                self.watch(entry)
