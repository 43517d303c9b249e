"""Runs a model's own Transformers class in PyTorch: safetensors and `save_pretrained` folders.

`engine` is the engine itself, `packing` puts many texts into one row, `attention` keeps them apart
there, `precision` changes what the linear layers compute in, `loading` reads the weights.
"""

from flambeau.engines.torch.engine import Engine

__all__ = ["Engine"]
