"""Settings that lie in a model's folder, as tasks read them."""

import json
from pathlib import Path

from flambeau.errors import LoadError


def read_json_object(path: Path) -> dict[str, object]:
    """The JSON object of a file, {} where there is no such file. Raises `LoadError`."""
    value = read_json(path) if path.is_file() else {}
    if not isinstance(value, dict):
        raise LoadError(f"{path.name} must hold a JSON object.")
    return value


def read_json(path: Path) -> object:
    """What a file holds. Raises `LoadError`."""
    try:
        value: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(f"{path.parent.name}/{path.name} cannot be read: {error}") from error
    return value
