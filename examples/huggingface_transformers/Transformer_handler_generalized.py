"""Serves Transformers models through Flambeau's own handler, with TorchServe's answers.

The file is here for the commands that name it; `--handler transformers_handler` does without, and
then answers carry scores and offsets. A request may choose with the header `X-Flambeau-Output:
legacy` or `full`, an archive with `output` in its configuration.
"""

from flambeau.handlers.native import TransformersHandler


class TransformersSeqClassifierHandler(TransformersHandler):
    """The native handler, answering in the shape that clients of TorchServe's example know.

    The name is TorchServe's, too: the class serves all tasks.
    """

    default_output = "legacy"
