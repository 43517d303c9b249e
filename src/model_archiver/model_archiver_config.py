"""What to pack, as a record: the command's flags."""

import os
from argparse import Namespace
from dataclasses import dataclass, field, fields

from model_archiver.manifest_components.manifest import RuntimeType


@dataclass
class ModelArchiverConfig:
    """The flags of `torch-model-archiver`; paths are texts, `extra_files` is comma separated."""

    model_name: str
    handler: str
    version: str
    serialized_file: str | None = None
    model_file: str | None = None
    extra_files: str | None = None
    runtime: str = RuntimeType.PYTHON.value
    export_path: str = field(default_factory=os.getcwd)
    archive_format: str = "default"
    force: bool = False
    requirements_file: str | None = None
    config_file: str | None = None

    @classmethod
    def from_args(cls, args: Namespace) -> "ModelArchiverConfig":
        """Return the record of parsed flags; those that `args` lacks keep their defaults."""
        return cls(**{name: value for name, value in vars(args).items() if name in _names(cls)})


def _names(cls: type[ModelArchiverConfig]) -> set[str]:
    return {each.name for each in fields(cls)}
