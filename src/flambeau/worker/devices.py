"""What this machine has to compute with. Looks without touching an accelerator."""

import contextlib
import ctypes
import sys
from importlib import metadata


def count_gpus() -> int:
    """Number of visible GPUs. 0 where torch is not imported or has no CUDA.

    `torch.cuda.device_count` asks NVML first and leaves the process able to fork.
    """
    torch = sys.modules.get("torch")
    return int(torch.cuda.device_count()) if torch is not None else 0


def framework_versions() -> dict[str, str]:
    """Versions of the frameworks that are imported in this process."""
    return {
        name: metadata.version(name) for name in ("torch", "transformers") if name in sys.modules
    }


def prepare_compute(threads: int) -> None:
    """Give this worker its share of the cores, and random numbers of its own.

    Without the second part, all forks would sample the same text: they inherit one state.
    """
    _keep_memory()
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if threads > 0:
        torch.set_num_threads(threads)
    torch.seed()


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_KEPT_BYTES = 64 * 1024 * 1024
_LARGEST_KEPT = 64 * 1024 * 1024  # a layer's activations; glibc takes no larger one


def _keep_memory() -> None:
    """Let glibc keep freed arrays for the next ones instead of giving them back to the system.

    A forward pass makes and frees the same arrays in each layer. Without this, each costs page
    faults: int8 passes took a third longer (2026-11-28, 2-core Xeon with AMX).
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT // 2)
        libc.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
