"""Whether an idle worker still answers: the last sign of it, and the question that gets the next.

A batch that a worker has finished is a sign. Where there was none for a while, the worker is sent a
`Ping`, when somebody asks whether it is well: a built-in handler runs its task's example for it, and
a user's handler is not run, since it may do more than answer; that its worker's loop turns is all
that is shown. A busy worker is judged by `responseTimeout` alone.
"""

import time

FRESH_SECONDS = 30.0
"""How long a sign counts (promises.md G21)."""
DUE_SECONDS = 10.0
"""From a sign until the next question, where somebody asks."""


class Canary:
    """What is known of one worker process, from its load on. Times are monotonic."""

    def __init__(self) -> None:
        self._failed = False
        self._sign_at: float | None = None
        self._asked = False

    def sign(self) -> None:
        """The worker has loaded its model, finished a batch, or answered the question."""
        self._sign_at = time.monotonic()
        self._asked = self._failed = False

    def failed(self) -> None:
        """The worker cannot run its example; it is asked again."""
        self._asked, self._failed = False, True

    def ask(self) -> bool:
        """Whether the worker is to be asked now; takes it that it is."""
        due = self._sign_at is None or time.monotonic() - self._sign_at > DUE_SECONDS
        if not due or self._asked:
            return False
        self._asked = True
        return True

    @property
    def is_fresh(self) -> bool:
        """Whether the last sign counts."""
        if self._sign_at is None or self._failed:
            return False
        return time.monotonic() - self._sign_at <= FRESH_SECONDS
