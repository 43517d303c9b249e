"""A context for unit tests of handlers, without a server."""

import uuid
from pathlib import Path
from typing import Any

import torch

from flambeau.handlers.ts.metrics.metrics_store import MetricsStore
from flambeau.handlers.ts.utils.util import get_yaml_config

__all__ = ["MockContext"]


class MockContext:
    """Stands in for `ts.context.Context` in a handler's own tests.

    Files that are None or "" are left out of the manifest; `gpu_id` counts only where there is a
    GPU. Set `explain` to make the requests after the first ask for explanations.
    """

    def __init__(
        self,
        model_pt_file: str | None = "model.pt",
        model_dir: str = "ts/torch_handler/unit_tests/models/tmp",
        model_file: str | None = "model.py",
        gpu_id: str | int | None = "0",
        model_name: str = "mnist",
        model_yaml_config_file: str | None = None,
    ) -> None:
        files = {"serializedFile": model_pt_file, "modelFile": model_file}
        self.manifest: dict[str, Any] = {
            "model": {key: name for key, name in files.items() if name}
        }
        self.system_properties: dict[str, Any] = {"model_dir": model_dir}
        if torch.cuda.is_available() and gpu_id:
            self.system_properties["gpu_id"] = gpu_id
        self.compute_threads = 0
        self.measured_engine = None
        self.explain = False
        self.metrics = MetricsStore(uuid.uuid4(), model_name)
        self.model_yaml_config: dict[str, Any] = {}
        if model_yaml_config_file:
            self.model_yaml_config = get_yaml_config(str(Path(model_dir) / model_yaml_config_file))

    def get_request_header(self, idx: int, key: str) -> bool:
        """Whether request `idx` (not the first) asks for an explanation."""
        return bool(idx and key and self.explain)
