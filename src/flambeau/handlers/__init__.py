"""Handlers: the code that answers a batch, in a worker process.

runner         loads one model's handler and runs batches through it
entry          finds the handler that an archive asks for
choice         whether our native handler answers in its place
rows, results  the bytes of a request as a handler's row; its answers as bytes
recognise      knows TorchServe's stock Transformers handler
native         our own Transformers handler
settings       what an archive's configuration says about its handler
image_transforms   what torchvision's transforms do, where it is not installed
optional_packages  packages that only some handlers need
removed_calls  keeps Transformers calls of old handlers working
ts             TorchServe's import surface, visible to users' handlers as `ts`
"""
