"""Handlers: the code that answers a batch, in a worker process.

runner            loads one model's handler and runs batches through it
entry, choice     finds the handler that an archive asks for, and whether ours answers in its place
rows, answers     a request's bytes as a handler's row, and its answers on their way out
results, failures what a handler returned as bytes, and what its exception means
native…           our own Transformers handler: its model, requests and generation
tokenizer, labels texts to tokens and back; the names of a model's classes
settings          what an archive's configuration says about its handler
recognise         knows TorchServe's stock Transformers handler
removed_calls     keeps Transformers calls of old handlers working
image_transforms  what torchvision's transforms do, where it is not installed
optional_packages packages that only some handlers need
prepare…          `flambeau prepare`, with pretrained and tracing
export…           `flambeau pack --engine`, with agreement and sample_texts
tun…              `flambeau tune`; measured says what its verdict means for a model
preload           what the zygote imports before it forks
ts                TorchServe's import surface, visible to users' handlers as `ts`
"""
