"""Flambeau: a model server for Hugging Face Transformers, compatible with TorchServe."""

__version__ = "0.1.0"
COMPATIBLE_VERSION = "0.12.0"
"""The TorchServe whose interfaces these are; its clients and tools ask for the number."""
