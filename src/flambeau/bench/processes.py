"""What the processes of a server used: CPU time, and the memory that is theirs alone."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil

from flambeau.errors import ConfigError


def tree(pid: int) -> Iterator[psutil.Process]:
    """The process and everything below it that runs now. Raises `ConfigError` where there is none."""
    try:
        root = psutil.Process(pid)
        below = root.children(recursive=True)
    except psutil.NoSuchProcess as error:
        raise ConfigError(f"No process has the number {pid}.") from error
    yield root
    yield from below


def cpu_seconds(pid: int) -> float:
    """User and system time that the process and everything below it has used so far.

    Children that have ended count, once their parent has waited for them. Resolution: 10 ms.
    """
    total = 0.0
    for process in tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            used = process.cpu_times()
            total += used.user + used.system + used.children_user + used.children_system
    return total


def proportional_bytes(pid: int) -> int:
    """Proportional set size (PSS) of the process and everything below it: shared pages count once.

    Linux only; needs the right to read `/proc/<pid>/smaps_rollup`.
    """
    total = 0
    for process in tree(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            line = next(line for line in rollup.splitlines() if line.startswith("Pss:"))
            total += int(line.split()[1]) * 1024
    return total


def listening_pid(port: int) -> int | None:
    """The process that listens at this TCP port of this machine, if it can be seen."""
    with contextlib.suppress(psutil.AccessDenied):
        for each in psutil.net_connections("tcp"):
            if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == port:
                return each.pid
    return None
