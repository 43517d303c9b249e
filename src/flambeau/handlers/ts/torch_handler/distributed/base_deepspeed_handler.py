"""The base class of handlers that run a model with DeepSpeed."""

import os
from abc import ABC
from typing import Any

from typing_extensions import override

from flambeau.handlers.ts.torch_handler.base_handler import BaseHandler

__all__ = ["BaseDeepSpeedHandler"]


class BaseDeepSpeedHandler(BaseHandler, ABC):
    """Knows its device; the subclass loads the model."""

    @override
    def initialize(self, context: Any) -> None:
        """Set `device` to this process's rank on the machine, an int."""
        self.device = int(os.environ.get("LOCAL_RANK", "0"))  # noqa: TID251 - torchrun's interface
