"""The Python interface of TorchServe's `torch-model-archiver`, over Flambeau's packer.

For scripts and notebooks that import `model_archiver` (contract.md section 1.1). New code runs the
command, or `flambeau pack`.
"""

from model_archiver.model_archiver import ModelArchiver
from model_archiver.model_archiver_config import ModelArchiverConfig
from model_archiver.version import __version__

__all__ = ["ModelArchiver", "ModelArchiverConfig", "__version__"]
