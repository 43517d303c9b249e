"""The memory of processes."""

import logging
from typing import TextIO

import psutil

__all__ = ["check_process_mem_usage", "get_cpu_usage"]


def get_cpu_usage(pid: str | int) -> int:
    """The resident memory of a process in bytes (the name is TorchServe's), 0 where there is none."""
    try:
        return int(psutil.Process(int(pid)).memory_info().rss)
    except psutil.Error:
        logging.getLogger().warning("Failed get process for pid: %s", pid)
        return 0


def check_process_mem_usage(stdin: TextIO) -> None:
    """Log `pid:bytes` for each process of a line of pids, separated by commas."""
    for pid in stdin.readline().strip().split(","):
        if pid:
            logging.getLogger().info("%s:%d", pid, get_cpu_usage(pid))
