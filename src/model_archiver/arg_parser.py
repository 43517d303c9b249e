"""The command's flags, for scripts that parse them."""

from flambeau.cli.torch_model_archiver import parser
from model_archiver.model_archiver_config import ModelArchiverConfig


class ArgParser:
    """Parses the flags of `torch-model-archiver`."""

    @staticmethod
    def export_model_args_parser() -> ModelArchiverConfig:
        """Parse `sys.argv`. Wrong usage exits with status 2."""
        values = {
            name: str(value) if hasattr(value, "__fspath__") else value
            for name, value in vars(parser().parse_args()).items()
        }
        return ModelArchiverConfig(**values)
