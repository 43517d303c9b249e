"""What a GPU is doing, as its vendor's command tells it (contract.md section 6.3)."""

import asyncio
import contextlib

NO_USAGE = "N/A"
_COMMAND = "nvidia-smi"
_COLUMNS = ("utilization.gpu", "utilization.memory", "memory.used")
_UNITS = (" %", " %", " MiB")
_SECONDS = 5.0


async def gpu_usage(index: int) -> str:
    """`gpuId::0 utilization.gpu::7 % utilization.memory::2 % memory.used::931 MiB`.

    "N/A" where there is no such command or GPU.
    """
    query = f"--query-gpu={','.join(_COLUMNS)}"
    arguments = ("-i", str(index), query, "--format=csv,noheader,nounits")
    try:
        process = await asyncio.create_subprocess_exec(
            _COMMAND, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError:
        return NO_USAGE
    output = b""
    try:
        async with asyncio.timeout(_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    values = [value.strip() for value in output.decode("ascii", "replace").split(",")]
    if process.returncode != 0 or len(values) != len(_COLUMNS):
        return NO_USAGE
    told = " ".join(
        f"{name}::{value}{unit}" for name, value, unit in zip(_COLUMNS, values, _UNITS, strict=True)
    )
    return f"gpuId::{index} {told}"
