"""The manifest's `model` object."""

import json
import os

from typing_extensions import override

from flambeau.archive.manifest import ModelSection, to_record


class Model:
    """A model in the manifest; paths are reduced to their last part. `str()` is its JSON."""

    def __init__(  # noqa: PLR0913, PLR0917  # TorchServe's
        self,
        model_name: str,
        serialized_file: str | None,
        handler: str,
        model_file: str | None = None,
        model_version: str | None = None,
        extensions: str | None = None,
        requirements_file: str | None = None,
        config_file: str | None = None,
    ) -> None:
        self.model_name = model_name
        self.serialized_file = _base(serialized_file)
        self.handler = os.path.basename(handler)
        self.model_file = model_file
        self.model_version = model_version
        self.extensions = extensions
        self.requirements_file = requirements_file
        self.config_file = _base(config_file)
        self.model_dict = self.__to_dict__()

    def __to_dict__(self) -> dict[str, object]:
        section = ModelSection(
            model_name=self.model_name,
            serialized_file=self.serialized_file or "",
            handler=self.handler,
            model_file=_base(self.model_file) or "",
            model_version=self.model_version or "",
            extensions=self.extensions or "",
            requirements_file=_base(self.requirements_file) or "",
            config_file=self.config_file or "",
        )
        return to_record(section)

    @override
    def __str__(self) -> str:
        return json.dumps(self.model_dict)

    __repr__ = __str__


def _base(path: str | None) -> str | None:
    return os.path.basename(path) if path else None
