"""The TorchServe release whose handler interface this package follows."""

__version__ = "0.12.0"
