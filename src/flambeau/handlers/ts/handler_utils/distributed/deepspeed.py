"""DeepSpeed's inference engine for a handler (contract.md sections 4.2 and 9.7)."""

import json
from pathlib import Path
from typing import Any

from flambeau.errors import LoadError
from flambeau.handlers.optional_packages import require

__all__ = ["create_checkpoints_json", "get_ds_engine"]


def create_checkpoints_json(model_path: str, checkpoints_json: str) -> None:
    """Write the list of a model folder's weight files (*.bin, *.pt…) as DeepSpeed reads it."""
    files = [str(path) for path in Path(model_path).rglob("*.[bp][it][n]") if path.is_file()]
    content = {"type": "ds_model", "checkpoints": files, "version": 1.0}
    Path(checkpoints_json).write_text(json.dumps(content), encoding="utf-8")


def get_ds_engine(model: Any, ctx: Any) -> Any:
    """`model` as DeepSpeed's engine, by the sections `deepspeed` and `handler.model_path`."""
    config = ctx.model_yaml_config or {}
    section = config.get("deepspeed")
    if not isinstance(section, dict):
        raise LoadError(f"{ctx.model_name} has no section `deepspeed` in its model-config.yaml.")
    model_path = (config.get("handler") or {}).get("model_path")
    if not model_path:
        raise LoadError(f"{ctx.model_name} has no `handler.model_path` in its model-config.yaml.")
    deepspeed = require(
        "deepspeed", "ts.handler_utils.distributed.deepspeed", "pip install deepspeed"
    )
    folder = Path(ctx.system_properties.get("model_dir"))
    settings = checkpoint = None
    if "config" in section:
        settings = str(folder / section["config"])
        if not Path(settings).is_file():
            raise LoadError(f"The archive has no DeepSpeed configuration {section['config']!r}.")
    if "checkpoint" in section:
        checkpoint = str(folder / section["checkpoint"])
        create_checkpoints_json(model_path, checkpoint)
    return deepspeed.init_inference(
        model, config=settings, base_dir=model_path, checkpoint=checkpoint
    )
