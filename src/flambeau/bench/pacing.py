"""When the requests of an open loop are due, whatever the server does."""

import os
import random
import select
import threading
import time
from collections.abc import Callable, Iterator
from typing import Literal

from typing_extensions import override

Arrivals = Literal["poisson", "uniform"]


def gaps(rate: float, arrivals: Arrivals, seed: int) -> Iterator[float]:
    """Seconds from one request to the next, without an end; `rate` is per second."""
    source = random.Random(seed)  # noqa: S311 - no secret depends on it
    while True:
        yield source.expovariate(rate) if arrivals == "poisson" else 1 / rate


class Pacer(threading.Thread):
    """Calls `arrive(due)` at each due time, in a thread: event loops wake to the millisecond only.

    `due` is on `time.perf_counter`'s clock. `start` is followed by `stop`, which waits for its end.
    """

    def __init__(self, gaps: Iterator[float], arrive: Callable[[float], None]) -> None:
        super().__init__(name="flambeau-bench-pacer", daemon=True)
        self._gaps = gaps
        self._arrive = arrive
        self._told, self._tell = os.pipe()

    @override
    def run(self) -> None:
        try:
            due = time.perf_counter()
            for gap in self._gaps:
                due += gap
                early = max(0.0, due - time.perf_counter())
                # to 0.1 ms, where an event loop and a timed wait in Python are later and cost more
                if select.select([self._told], [], [], early)[0]:
                    return
                self._arrive(due)
        finally:
            os.close(self._told)

    def stop(self) -> None:
        """No more requests."""
        os.close(self._tell)
        self.join()
