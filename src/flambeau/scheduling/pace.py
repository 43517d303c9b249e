"""How fast a model answers while requests wait for it, and so when one who was refused may return."""

import math

_HALF_LIFE_SECONDS = 10.0
"""What was so long ago counts half."""

_SOONEST, _LATEST = 1, 60
"""Bounds of `Retry-After`, in seconds: nothing below it can be said, and a guess goes no further."""


class Pace:
    """Answers a second, over the time in which something waited. Times on one monotonic clock."""

    def __init__(self) -> None:
        self._answers = 0.0
        self._seconds = 0.0
        self._busy_since: float | None = None

    def answered(self, count: int, now: float, *, waiting: bool) -> None:
        """So many requests were answered just now; `waiting`: others wait still."""
        if self._busy_since is not None:
            passed = now - self._busy_since
            kept = 0.5 ** (passed / _HALF_LIFE_SECONDS)
            self._answers = self._answers * kept + count
            self._seconds = self._seconds * kept + passed
        self._busy_since = now if waiting else None

    def idle(self) -> None:
        """Nothing waits and nothing runs: the time from now on says nothing."""
        self._busy_since = None

    def retry_after(self, waiting: int, now: float) -> int:
        """Whole seconds until what waits now will have been answered, from 1 to 60."""
        if not self._answers:
            return _SOONEST
        silence = now - self._busy_since if self._busy_since is not None else 0.0
        seconds = waiting * (self._seconds + silence) / self._answers
        return min(max(math.ceil(seconds), _SOONEST), _LATEST)
