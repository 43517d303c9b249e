"""A model's breaker: open while its workers die faster than they answer.

Rules (docs/failures.md): it opens at the fifth death within a minute without an answer in between,
unless a worker lives that was there before the first of them. Two deaths under one input, which the
quarantine takes for their cause, are one. Open, it lets one worker start every 30 seconds, for
ever, and one request to it: an answer closes it, and so does a worker that lives for so long.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum

MOST_DEATHS = 5
"""So many deaths within `WINDOW_SECONDS` open the breaker."""
WINDOW_SECONDS = 60.0
PROBE_SECONDS = 30.0
"""How long the breaker stays open before it is tried whether a worker lives and answers."""


class BreakerState(StrEnum):
    """Whether requests may go to a model's workers."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Breaker:
    """Counts the deaths of one model's workers. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._deaths: deque[float] = deque()
        self._probe_at: float | None = None
        self.reason = ""

    @property
    def state(self) -> BreakerState:
        """The state now: an open breaker is half open once it is time for a probe."""
        if self._probe_at is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if self._clock() < self._probe_at else BreakerState.HALF_OPEN

    @property
    def closed(self) -> bool:
        """Whether requests may go to all workers."""
        return self._probe_at is None

    def died(self, how: str, oldest: float | None) -> bool:
        """A worker died; `how` is for people. True: the breaker has opened by it.

        `oldest` is when the longest-living of the model's other workers had loaded, None for none.
        A death while the breaker is not closed is a probe that failed, and begins the next wait.
        """
        now = self._clock()
        if self._probe_at is not None:
            self._probe_at = max(self._probe_at, now + PROBE_SECONDS)
            return False
        self._deaths.append(now)
        while self._deaths[0] <= now - WINDOW_SECONDS:
            self._deaths.popleft()
        if len(self._deaths) < MOST_DEATHS or (oldest is not None and oldest < self._deaths[0]):
            return False
        self._probe_at = now + PROBE_SECONDS
        self.reason = (
            f"{len(self._deaths)} of its workers died within {now - self._deaths[0]:.0f} s without"
            f" an answer in between, the last by {how}"
        )
        return True

    def answered(self) -> None:
        """A worker has finished a batch: the model is well."""
        if self._deaths:
            self._deaths.clear()
        self._probe_at = None

    def retry_after(self) -> int:
        """Whole seconds until the next probe, at least one; 1 while a probe is under way."""
        left = 0.0 if self._probe_at is None else self._probe_at - self._clock()
        return max(math.ceil(left), 1)
