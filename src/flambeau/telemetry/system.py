"""Readings of the machine, as TorchServe reports them (contract.md section 7.3).

TorchServe starts a Python process with torch for each sample; here a thread takes some
milliseconds. GPUs are read through NVML where the package `nvidia-ml-py` is installed.
"""

import importlib
import logging
from collections.abc import Iterator
from typing import Any

import psutil

Reading = tuple[str, tuple[str, ...], float]
"""A metric's name, its dimensions besides Level and Hostname, and the value."""

logger = logging.getLogger(__name__)

_MEGABYTE = 1024**2
_GIGABYTE = 1024**3
_FIRST_CPU_SECONDS = 0.1


class SystemSampler:
    """Takes readings; not thread-safe. `gpus` is the most that are reported, None for all."""

    def __init__(self, gpus: int | None = None) -> None:
        self._gpus = gpus
        self._nvml: Any = None
        self._began = False

    def sample(self) -> list[Reading]:
        """Read everything. Blocks: 0.1 s at the first call, then the CPU's is since the last."""
        cpu = psutil.cpu_percent(None if self._began else _FIRST_CPU_SECONDS)
        if not self._began:
            self._nvml = _open_nvml()
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
        if self._nvml is None:
            return
        count = self._nvml.nvmlDeviceGetCount()
        for index in range(count if self._gpus is None else min(count, self._gpus)):
            try:
                handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
                memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
                rates = self._nvml.nvmlDeviceGetUtilizationRates(handle)
            except self._nvml.NVMLError as error:
                logger.debug("GPU %d cannot be read: %s", index, error)
                continue
            device = (str(index),)
            yield ("GPUMemoryUtilization", device, float(rates.memory))
            yield ("GPUMemoryUsed", device, memory.used / _MEGABYTE)
            yield ("GPUUtilization", device, float(rates.gpu))


def _open_nvml() -> Any:
    """The NVML binding, ready; None where the package or the driver is missing."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml
