"""The handler interface of Multi Model Server, TorchServe's ancestor."""
