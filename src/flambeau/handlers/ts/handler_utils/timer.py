"""The `timed` decorator for a handler's steps."""

import functools
import time
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["timed"]


def timed(func: Callable[..., Any]) -> Callable[..., Any]:
    """Measure a handler's method where `handler.profile` is true in model-config.yaml.

    The time goes to the metric `ts_handler_<method>` in milliseconds; on a GPU it counts until the
    device is done.
    """

    @functools.wraps(func)
    def measure(self: Any, *args: Any, **kwargs: Any) -> Any:
        context = getattr(self, "context", None)
        section = (getattr(context, "model_yaml_config", None) or {}).get("handler")
        if not (isinstance(section, dict) and section.get("profile")):
            return func(self, *args, **kwargs)
        start = _now()
        result = func(self, *args, **kwargs)
        self.context.metrics.add_time(f"ts_handler_{func.__name__}", (_now() - start) * 1000)
        return result

    return measure


def _now() -> float:
    """Seconds on a clock, read when the GPU has finished its queue."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic()
