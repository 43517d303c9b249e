"""The `timeit` decorator."""

import functools
import logging
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["timeit"]

_logger = logging.getLogger(__name__)
_P = ParamSpec("_P")
_R = TypeVar("_R")


def timeit(func: Callable[_P, _R]) -> Callable[_P, _R]:
    """Log how long each call of a function took, by the clock and on the CPU.

    TorchServe's own fails on every Python since 3.8 (`time.clock`).
    """

    @functools.wraps(func)
    def measure(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        started, cpu = time.monotonic(), time.process_time()
        try:
            return func(*args, **kwargs)
        finally:
            _logger.info(
                "func: %r took a total of %2.4f sec to run and %2.4f sec of CPU time",
                func.__name__,
                time.monotonic() - started,
                time.process_time() - cpu,
            )

    return measure
