"""One file per Transformers task: parse, tokenised input, output. Pure Python and numpy.

The folder is the registry: a pipeline tag is the file's name with `_` for `-`, and each file holds
one class `Task`. Adding a task is adding a file.
"""

import pkgutil
from importlib import import_module

from flambeau.errors import ConfigError
from flambeau.tasks.base import BaseTask


def available() -> list[str]:
    """The pipeline tags of all tasks, sorted. Imports none of them."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name.replace("_", "-") for name in names if name != "base")


def load(name: str) -> type[BaseTask]:
    """The task class of a pipeline tag such as `text-classification`.

    Raises `ConfigError` for a tag that no file stands for.
    """
    if name not in available():
        raise ConfigError(f"There is no task {name!r}. Available: {', '.join(available())}.")
    task: type[BaseTask] = import_module(f"{__name__}.{name.replace('-', '_')}").Task
    return task
