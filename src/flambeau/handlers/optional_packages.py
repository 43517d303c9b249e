"""Packages that only some handlers need: imported when such a handler loads."""

import importlib
from types import ModuleType

from flambeau.errors import LoadError

__all__ = ["require"]


def require(module: str, who: str, way_out: str) -> ModuleType:
    """The module, imported; LoadError naming its package, who needs it, and what to do.

    `who` starts the sentence ("The handler vllm_handler"). What a package that is there raises
    while it is imported goes through, so that a broken installation is not called missing.
    """
    package = module.partition(".")[0]
    try:
        importlib.import_module(package)
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing == package:
            reason = f"the package {package}, which is not installed"
        elif f"{module}.".startswith(f"{missing}."):
            reason = f"{missing}, which the installed {package} does not have"
        else:
            raise
        raise LoadError(f"{who} needs {reason}: {way_out}") from error
