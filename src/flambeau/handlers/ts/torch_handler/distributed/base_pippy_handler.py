"""The base class of handlers that pipeline a model with PiPPy."""

import os
from abc import ABC
from typing import Any

import torch
from typing_extensions import override

from flambeau.errors import LoadError
from flambeau.handlers.ts.handler_utils.distributed.pt_pippy import initialize_rpc_workers
from flambeau.handlers.ts.torch_handler.base_handler import BaseHandler

__all__ = ["BasePippyHandler"]


class BasePippyHandler(BaseHandler, ABC):
    """Joins the processes of the model; the subclass loads it."""

    @override
    def initialize(self, context: Any) -> None:
        """Set `local_rank`, `world_size` and `device` (an index) from torchrun's environment."""
        try:
            self.local_rank = int(os.environ["LOCAL_RANK"])  # noqa: TID251 - torchrun's interface
            self.world_size = int(os.environ["WORLD_SIZE"])  # noqa: TID251 - torchrun's interface
        except KeyError as error:
            raise LoadError(
                f"PiPPy handlers run under torchrun, which sets {error}: give model-config.yaml a "
                "`torchrun` section with nproc-per-node."
            ) from error
        self.device = self.local_rank % max(torch.cuda.device_count(), 1)
        initialize_rpc_workers(self.local_rank, self.world_size, context)
