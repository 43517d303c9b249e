"""Streaming answers and finding classes, for handlers (contract.md sections 5.7 and 9.7)."""

import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from flambeau.handlers.ts.context import Context

__all__ = ["import_class", "send_intermediate_predict_response"]


def send_intermediate_predict_response(
    ret: Sequence[object],
    req_id_map: Mapping[int, str] | None,
    message: str,
    code: int,
    context: Context,
) -> None:
    """Send one chunk of each answer now; the handler's return value is the last chunk.

    `ret` has one entry per row; `req_id_map` (`context.request_ids`) says which request each one
    belongs to. `message` and `code` are TorchServe's and carry nothing: statuses come from the
    context. Does nothing on other ranks than the first of a distributed handler.
    """
    del message, code
    if _rank() != 0:
        return
    if context.chunk_sink is None:
        raise RuntimeError("no request is running: a chunk can only be sent from within handle()")
    context.chunk_sink(ret, req_id_map)


def _rank() -> int:
    """This process's rank in a distributed handler, 0 without one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available():
        return 0
    return int(torch.distributed.get_rank()) if torch.distributed.is_initialized() else 0


def import_class(class_name: str, module_prefix: str | None = None) -> Any:
    """The class `class_name` ("package.module.Class", or "Class" inside `module_prefix`).

    Raises ImportError that names what is missing.
    """
    if not class_name:
        raise ImportError("the class name is empty")
    module_name, _, name = class_name.rpartition(".")
    full_name = ".".join(part for part in (module_prefix, module_name) if part)
    if not full_name:
        raise ImportError(f"{class_name!r} names no module: write it as 'module.{class_name}'")
    found = getattr(importlib.import_module(full_name), name, None)
    if found is None:
        raise ImportError(f"module {full_name!r} has no class {name!r}")
    return found
