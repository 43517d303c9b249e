"""The release of TorchServe's archiver whose interface this package follows."""

__version__ = "0.12.0"
