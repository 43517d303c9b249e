"""What the GPUs are doing, as their vendor's command tells it (contract.md sections 6.3 and 7.3)."""

import subprocess

import msgspec
from typing_extensions import override

NO_USAGE = "N/A"
_COLUMNS = ("utilization.gpu", "utilization.memory", "memory.used")
_UNITS = (" %", " %", " MiB")
_COMMAND = (
    "nvidia-smi",
    f"--query-gpu=index,{','.join(_COLUMNS)}",
    "--format=csv,noheader,nounits",
)
_SECONDS = 5.0


class GpuUsage(msgspec.Struct, frozen=True):
    """One GPU's state. Utilisations in percent, memory in MiB; texts, since some GPUs tell `[N/A]`."""

    index: int
    utilization: str
    memory_utilization: str
    memory_used: str

    @override
    def __str__(self) -> str:
        """`gpuId::0 utilization.gpu::7 % utilization.memory::2 % memory.used::931 MiB`."""
        values = (self.utilization, self.memory_utilization, self.memory_used)
        told = zip(_COLUMNS, values, _UNITS, strict=True)
        return " ".join(
            [f"gpuId::{self.index}", *(f"{name}::{value}{unit}" for name, value, unit in told)]
        )


def read_gpus() -> dict[int, GpuUsage]:
    """Every GPU that can be read, by its index; {} where there is no such command.

    Blocks until the command has ended, for `_SECONDS` at most: call it off the event loop.
    """
    try:
        done = subprocess.run(  # noqa: S603  # fixed arguments
            _COMMAND,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS,
            check=False,  # one broken GPU must not hide the others
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    rows = [line.split(",") for line in done.stdout.decode("ascii", "replace").splitlines()]
    found = [[value.strip() for value in row] for row in rows if len(row) == 1 + len(_COLUMNS)]
    return {int(row[0]): GpuUsage(int(row[0]), *row[1:]) for row in found if row[0].isdigit()}
