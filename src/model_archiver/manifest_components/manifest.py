"""The manifest as a whole."""

import json
from enum import Enum

from typing_extensions import override

from flambeau.archive.manifest import new_manifest_header
from model_archiver.manifest_components.model import Model


class RuntimeType(Enum):
    """What runs a handler."""

    PYTHON = "python"
    PYTHON3 = "python3"
    LSP = "LSP"


class Manifest:
    """What is written to the archive; `str()` is its JSON."""

    def __init__(self, runtime: str, model: Model) -> None:
        self.creation_time, self.archiver_version = new_manifest_header()
        self.runtime = RuntimeType(runtime)
        self.model = model
        self.manifest_dict = self.__to_dict__()

    def __to_dict__(self) -> dict[str, object]:
        return {
            "createdOn": self.creation_time,
            "runtime": self.runtime.value,
            "model": self.model.model_dict,
            "archiverVersion": self.archiver_version,
        }

    @override
    def __str__(self) -> str:
        return json.dumps(self.manifest_dict, indent=2)

    __repr__ = __str__
