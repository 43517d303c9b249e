"""The release of TorchServe's workflow archiver whose interface this package follows."""

__version__ = "0.2.15"
