"""What this machine, or this container, has."""

import os
from pathlib import Path


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and a container's CPU limit if lower."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limit = _cgroup_cores(Path("/sys/fs/cgroup/cpu.max"))
    return max(1, min(cores or 1, limit or cores or 1))


def _cgroup_cores(file: Path) -> int:
    try:
        quota, period = file.read_text().split()
    except (OSError, ValueError):
        return 0
    return 0 if quota == "max" else max(1, int(quota) // int(period))
