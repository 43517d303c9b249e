"""Pipeline parallelism with PiPPy for a handler (contract.md sections 4.2 and 9.7)."""

import inspect
import logging
import os
from pathlib import Path
from typing import Any

import torch

from flambeau.errors import LoadError
from flambeau.handlers.optional_packages import require

__all__ = ["get_pipeline_driver", "initialize_rpc_workers"]

_logger = logging.getLogger(__name__)


def initialize_rpc_workers(local_rank: int, world_size: int, ctx: Any) -> None:
    """Join the group of the model's processes, as `worker<rank>`, with a device of its own each."""
    section = _section(ctx, "pippy", "rpc_timeout", "num_worker_threads")
    devices = torch.cuda.device_count()
    if not devices:
        raise LoadError("PiPPy handlers need a GPU, and this machine shows none.")
    options = torch.distributed.rpc.TensorPipeRpcBackendOptions(
        num_worker_threads=section["num_worker_threads"], rpc_timeout=section["rpc_timeout"]
    )
    for rank in range(world_size):
        options.set_device_map(f"worker{rank}", {local_rank % devices: rank % devices})
    _logger.info(
        "rank %d is process %d on device %d", local_rank, os.getpid(), local_rank % devices
    )
    torch.distributed.rpc.init_rpc(  # type: ignore[no-untyped-call]  # torch has no types for it
        f"worker{local_rank}",
        rank=local_rank,
        world_size=world_size,
        rpc_backend_options=options,
    )


def get_pipeline_driver(model: Any, world_size: int, ctx: Any) -> Any:
    """`model` cut into `world_size` stages, by the sections `pippy` and `handler`.

    A Hugging Face model (`model_type: HF`) comes back with the pipeline inside, any other as the
    pipeline's driver.
    """
    section = _section(ctx, "pippy", "input_names", "model_type")
    files = _section(ctx, "handler", "model_path")
    index = files.get("index_filename")
    if index is not None and not (Path(files["model_path"]) / index).is_file():
        raise LoadError(f"There is no index file {index!r} in {files['model_path']}.")
    way_out = "pip install torchpippy, or load the model with device_map in your own handler"
    pippy = require("pippy", "ts.handler_utils.distributed.pt_pippy", way_out)
    hugging_face = section["model_type"] == "HF"
    hf = require("pippy.hf", "ts.handler_utils.distributed.pt_pippy", way_out)
    model.eval()
    fixed = {
        name: parameter.default
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if name not in section["input_names"]
    }
    if hugging_face and "bloom" in str(type(model)):
        fixed.setdefault("deprecated_arguments", {})
    driver, _ = pippy.all_compile(
        model,
        num_ranks=world_size,
        num_chunks=section.get("chunks", 1),
        schedule="FillDrain",
        split_policy=pippy.split_into_equal_size(world_size),
        tracer=hf.PiPPyHFTracer() if hugging_face else None,
        concrete_args=fixed,
        index_filename=None if index is None else str(Path(files["model_path"]) / index),
        checkpoint_prefix=None,
    )
    if not hugging_face:
        return driver
    hf.inject_pipeline_forward(model, driver)
    return model


def _section(ctx: Any, name: str, *required: str) -> dict[str, Any]:
    """A section of model-config.yaml; LoadError if it or one of its keys is missing."""
    section = (ctx.model_yaml_config or {}).get(name)
    missing = [key for key in required if not isinstance(section, dict) or key not in section]
    if missing or not isinstance(section, dict):
        raise LoadError(f"model-config.yaml lacks {', '.join(f'{name}.{key}' for key in missing)}.")
    return section
