"""Readings of the machine as TorchServe's metric lines, for scripts of users that ask for them.

The server itself reads the machine without this (`flambeau.telemetry.system`).
"""

import logging
from types import ModuleType

from flambeau.handlers.ts.metrics.dimension import Dimension
from flambeau.handlers.ts.metrics.metric import Metric
from flambeau.telemetry.system import SystemSampler

__all__ = ["collect_all", "system_metrics"]

system_metrics: list[Metric] = []
"""What `collect_all` has read."""


def collect_all(mod: ModuleType | None = None, num_of_gpus: int = 0) -> None:  # noqa: ARG001 - TorchServe's signature
    """Read everything into `system_metrics` and log each reading, and an empty line at the end."""
    for name, devices, value in SystemSampler(num_of_gpus).sample():
        unit = "MB" if name.startswith(("Memory", "GPUMemoryUsed")) else "GB"
        if name.endswith("Utilization"):
            unit = "percent"
        dimensions = [Dimension("Level", "Host"), *(Dimension("device_id", one) for one in devices)]
        system_metrics.append(Metric(name, value, unit, dimensions))
    for metric in system_metrics:
        logging.getLogger().info("%s", metric)
    logging.getLogger().info("")
