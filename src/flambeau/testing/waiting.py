"""Waiting for something that another process does, without a bare sleep."""

import threading
import time
from collections.abc import Callable

_STEP_SECONDS = 0.02


def wait_until(predicate: Callable[[], bool], seconds: float = 60.0) -> None:
    """Return as soon as `predicate()` is true. Raises `TimeoutError` after `seconds`."""
    pause = threading.Event()
    deadline = time.monotonic() + seconds
    while not predicate():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not true within {seconds:g} s: {predicate}")
        pause.wait(_STEP_SECONDS)
