"""Base classes that handlers had before TorchServe, under Multi Model Server."""

import ast
import json
import logging
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from typing_extensions import override

__all__ = ["ModelService", "SingleNodeService"]

_logger = logging.getLogger(__name__)


class ModelService(ABC):
    """A model with a signature file, which says what its input is called and of which type."""

    def __init__(self, model_name: str, model_dir: str, manifest: Any, gpu: Any = None) -> None:
        del model_name, model_dir, manifest, gpu  # `initialize` gets them in its context
        self.ctx: Any = None
        self._context: Any = None
        self._signature: dict[str, Any] = {}

    def initialize(self, context: Any) -> None:
        """Read the signature file that the manifest names; ValueError if it is missing."""
        self._context = context
        name = context.manifest["Model"]["Signature"]
        path = Path(context.system_properties.get("model_dir")) / name
        if not path.is_file():
            raise ValueError(f"The archive has no signature file {name!r}.")
        self._signature = json.loads(path.read_text(encoding="utf-8"))

    @abstractmethod
    def inference(self, data: list[Any]) -> Any:
        """The answers to a list of inputs."""

    @abstractmethod
    def ping(self) -> Any:
        """Whether the model is well."""

    def signature(self) -> dict[str, Any]:
        """What the signature file says."""
        return self._signature

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        """The answer to the first row, as a list."""
        del context
        row = data[0]
        names = (self._signature["inputs"][0]["data_name"], "body", "data")
        content = next((row[name] for name in names if row.get(name) is not None), None)
        if self._signature["input_type"] == "application/json" and isinstance(
            content, bytes | bytearray
        ):
            content = ast.literal_eval(content.decode("utf-8"))
        answer = self.inference([content])
        return answer if isinstance(answer, list) else [answer]


class SingleNodeService(ModelService):
    """A model service in three steps."""

    @override
    def inference(self, data: list[Any]) -> Any:
        """The steps one after the other, with their times in the log."""
        for name in ("preprocess", "inference", "postprocess"):
            started = time.monotonic()
            data = getattr(self, f"_{name}")(data)
            _logger.info("%s time: %.2f", name, (time.monotonic() - started) * 1000)
        return data

    @abstractmethod
    def _inference(self, data: Any) -> Any:
        """The model's output."""

    def _preprocess(self, data: Any) -> Any:
        """The model's input."""
        return data

    def _postprocess(self, data: Any) -> Any:
        """The answers."""
        return data
