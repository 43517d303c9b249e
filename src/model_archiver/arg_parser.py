"""The command's flags, for scripts that parse them."""

from pathlib import Path

from flambeau.cli.torch_model_archiver import parser
from model_archiver.model_archiver_config import ModelArchiverConfig


class ArgParser:
    """Parses the flags of `torch-model-archiver`."""

    @staticmethod
    def export_model_args_parser() -> ModelArchiverConfig:
        """Parse `sys.argv`. Wrong usage exits with status 2."""
        options = parser().parse_args()
        for name, value in vars(options).items():
            if isinstance(value, Path):
                setattr(options, name, str(value))
        return ModelArchiverConfig.from_args(options)
