"""The Python interface of TorchServe's `torch-workflow-archiver`, over Flambeau's packer.

For scripts that import `workflow_archiver` (contract.md section 1.7). New code runs the command.
"""

from workflow_archiver.version import __version__

__all__ = ["__version__"]
