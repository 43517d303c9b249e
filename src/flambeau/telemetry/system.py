"""Readings of the machine, as TorchServe reports them (contract.md section 7.3).

TorchServe starts a Python process with torch for each sample; here a thread takes some
milliseconds, and `nvidia-smi` runs where there is one.
"""

import contextlib
from collections.abc import Iterator

import psutil

from flambeau.telemetry.gpu import read_gpus

Reading = tuple[str, tuple[str, ...], float]
"""A metric's name, its dimensions besides Level and Hostname, and the value."""

_MEGABYTE = 1024**2
_GIGABYTE = 1024**3
_FIRST_CPU_SECONDS = 0.1


class SystemSampler:
    """Takes readings; not thread-safe. `gpus` is the most that are reported, None for all."""

    def __init__(self, gpus: int | None = None) -> None:
        self._gpus = gpus
        self._began = False

    def sample(self) -> list[Reading]:
        """Read everything. Blocks: 0.1 s at the first call, then the CPU's is since the last."""
        cpu = psutil.cpu_percent(None if self._began else _FIRST_CPU_SECONDS)
        self._began = True
        memory, disk = psutil.virtual_memory(), psutil.disk_usage("/")
        return [
            ("CPUUtilization", (), cpu),
            ("MemoryUsed", (), memory.used / _MEGABYTE),
            ("MemoryAvailable", (), memory.available / _MEGABYTE),
            ("MemoryUtilization", (), memory.percent),
            ("DiskUsage", (), disk.used / _GIGABYTE),
            ("DiskAvailable", (), disk.free / _GIGABYTE),
            ("DiskUtilization", (), disk.percent),
            *self._gpu_readings(),
        ]

    def _gpu_readings(self) -> Iterator[Reading]:
        for index, gpu in read_gpus().items():
            if self._gpus is not None and index >= self._gpus:
                continue
            for name, text in (
                ("GPUMemoryUtilization", gpu.memory_utilization),
                ("GPUMemoryUsed", gpu.memory_used),
                ("GPUUtilization", gpu.utilization),
            ):
                with contextlib.suppress(ValueError):  # a GPU that does not tell
                    yield (name, (str(index),), float(text))
