"""The commands: flambeau, and the drop-ins torchserve and torch-model-archiver."""
