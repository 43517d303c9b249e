"""The same requests to TorchServe 0.12 and to Flambeau, and how the answers differ."""
