"""Reads archives without running them, and says what will break or change when they are served.

examine     one archive, a folder or a whole store → reports
findings    what is reported
sources     an archive's Python files, parsed
imports     which imports will not resolve here
calls       calls that current libraries removed, and access to the hub
batches     code that answers one request of a batch
handler     which code will answer, and whether it can
weights     pickles, safetensors headers, tokenizer files
settings    manifest, model-config.yaml, requirements
environment TorchServe's own packages beside ours

Nothing here imports a framework, and nothing runs or unpickles what an archive holds.
"""
