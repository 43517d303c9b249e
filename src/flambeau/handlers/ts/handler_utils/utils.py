"""Streaming answers and finding classes, for handlers (contract.md sections 5.7 and 9.7)."""

import importlib
from typing import Any

from flambeau.handlers.ts.protocol.otf_message_handler import (
    create_predict_response,
    send_intermediate_predict_response,
)

__all__ = ["create_predict_response", "import_class", "send_intermediate_predict_response"]


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
