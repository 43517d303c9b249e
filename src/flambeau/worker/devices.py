"""What this machine has to compute with. Looks without touching an accelerator."""

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
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if threads > 0:
        torch.set_num_threads(threads)
    torch.seed()
