"""Flambeau: a model server for Hugging Face Transformers, compatible with TorchServe."""

__version__ = "0.1.0"
