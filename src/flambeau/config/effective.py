"""A configuration as the texts of a properties file: the way back from `ServerConfig`."""

import json
from pathlib import Path

from flambeau.config.addresses import Address
from flambeau.config.load import SCHEMA
from flambeau.config.schema import ServerConfig

_DEFAULTS = ServerConfig()
_ALWAYS = frozenset(["inference_address", "management_address", "metrics_address"])
_NEVER = frozenset(["model_snapshot", "no_config_snapshots"])


def effective_properties(config: ServerConfig) -> dict[str, str]:
    """Keys and texts that make `load_config` return this configuration again.

    The addresses, and what is not the default: a default may be a better one in the next version.
    Paths are made absolute, so that the file means the same in every working directory.
    """
    pairs: dict[str, str] = {}
    for key, (_, setting) in SCHEMA.items():
        value = getattr(config, key)
        changed = value != getattr(_DEFAULTS, key)
        if setting.in_file and key not in _NEVER and (changed or key in _ALWAYS):
            pairs[key] = _text(value)
    return pairs


def _text(value: object) -> str:
    match value:
        case None:
            text = ""
        case bool():
            text = "true" if value else "false"
        case float():
            text = f"{value:.15g}"
        case Path():
            text = str(value.absolute())
        case tuple():
            text = ",".join(value)
        case str() | int() | Address():
            text = str(value)
        case _:
            text = json.dumps(value)
    return text
