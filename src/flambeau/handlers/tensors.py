"""Reads the weights of a model's small modules, which tasks run themselves."""

from pathlib import Path

from flambeau.tasks.base import Arrays, read_safetensors


def read_tensors(file: Path) -> Arrays:
    """Tensors by name, in float32, from safetensors or from a pickle of which only tensors are read.

    The latter needs torch, which a worker with another engine has not imported. Raises what the
    libraries raise.
    """
    if file.suffix == ".safetensors":
        return read_safetensors(file)
    import torch

    tensors = torch.load(file, map_location="cpu", weights_only=True)
    return {name: tensor.float().numpy() for name, tensor in tensors.items()}
