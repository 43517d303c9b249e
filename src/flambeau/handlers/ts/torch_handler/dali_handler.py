"""The base class of handlers that decode images with NVIDIA DALI (contract.md section 9.5)."""

from abc import ABC
from typing import Any

import numpy as np
import torch
from typing_extensions import override

from flambeau.handlers.ts.handler_utils.preprocess.dali import get_dali_pipeline
from flambeau.handlers.ts.torch_handler.vision_handler import VisionHandler

__all__ = ["DALIHandler"]


class DALIHandler(VisionHandler, ABC):
    """Runs the rows' image files through the pipeline of the `dali` section."""

    pipeline: Any

    @override
    def initialize(self, context: Any) -> None:
        """Load the model and the pipeline."""
        self.pipeline = get_dali_pipeline(context)
        super().initialize(context)

    @override
    def preprocess(self, data: Any) -> Any:
        """The images of all rows as one tensor on the device."""
        files = [row.get("data") or row.get("body") for row in data]
        encoded = [
            np.frombuffer(file, dtype=np.uint8) if isinstance(file, bytes | bytearray) else file
            for file in files
        ]
        decoded = self.pipeline.run(source=encoded)[0]
        images = [torch.tensor(decoded.at(index)) for index in range(len(encoded))]
        return torch.stack(images).to(self.device)
