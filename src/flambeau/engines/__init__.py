"""What runs the forward pass: one file per engine.

The folder is the registry: an engine's name is its file's, and each file holds one class `Engine`.
Adding an engine is adding a file.
"""

import pkgutil
from importlib import import_module

from flambeau.engines.base import Engine
from flambeau.errors import ConfigError


def available() -> list[str]:
    """The names of all engines, sorted. Imports none of them."""
    names = {module.name for module in pkgutil.iter_modules(__path__)}
    return sorted(names - {"attribution", "base", "generation", "graph"})


def load(name: str) -> type[Engine]:
    """The engine class of a name such as `torch`. Imports its framework.

    Raises `ConfigError` for a name that no file stands for.
    """
    if name not in available():
        raise ConfigError(
            f"The handler setting 'engine' is {name!r}. Allowed: auto, {', '.join(available())}."
        )
    engine: type[Engine] = import_module(f"{__name__}.{name}").Engine
    return engine
