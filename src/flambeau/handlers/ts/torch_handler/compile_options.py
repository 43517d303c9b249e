"""The `pt2` section of model-config.yaml: whether and how a handler's model is compiled."""

import logging
from typing import Any

from flambeau.handlers.ts.utils.util import check_valid_pt2_backend

__all__ = ["compile_options", "wants_aot_export"]

_logger = logging.getLogger(__name__)


def compile_options(config: dict[str, Any] | None) -> dict[str, Any] | None:
    """The keyword arguments for `torch.compile`, or None if the model is not to be compiled.

    Forms (contract.md section 4.2): `{compile: {enable: bool, backend: …, …}}`; a backend's name;
    or the keyword arguments themselves. An unknown backend is logged and gives None; a section
    that is neither text nor a mapping raises TypeError.
    """
    section = (config or {}).get("pt2")
    if section is None:
        return None
    if isinstance(section, str):
        options: dict[str, Any] = {"backend": section}
    elif not isinstance(section, dict):
        raise TypeError("model-config.yaml: `pt2` must be a backend's name or a mapping.")
    elif "compile" in section:
        options = dict(section["compile"] or {})
        if not options.pop("enable", False):
            return None
    elif "export" in section:
        return None
    else:
        options = dict(section)
    if "backend" in options and not check_valid_pt2_backend(options["backend"]):
        return None
    if not (isinstance(section, dict) and "compile" in section):
        _logger.warning("model-config.yaml: write `pt2: {compile: {enable: true, …}}` instead.")
    return options


def wants_aot_export(config: dict[str, Any] | None) -> bool:
    """Whether the serialised file is a library made by ahead-of-time export."""
    section = (config or {}).get("pt2")
    export = section.get("export") if isinstance(section, dict) else None
    return isinstance(export, dict) and bool(export.get("aot_compile"))
