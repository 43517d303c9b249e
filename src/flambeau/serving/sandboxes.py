"""Which sandbox level a model gets, from its own file and from the server's configuration."""

from typing import get_args

from flambeau.config import ServerConfig
from flambeau.errors import ConfigError
from flambeau.serving.model_yaml import ModelYaml
from flambeau.types import ModelKey, SandboxLevel

_LEVELS: tuple[SandboxLevel, ...] = get_args(SandboxLevel)


def sandbox_level(from_yaml: ModelYaml, config: ServerConfig, key: ModelKey) -> SandboxLevel:
    """The server's level for this model, or the one of the model's file where that is stricter.

    The server's is `models` for the version (`{"sandbox": "strict"}`), else `sandbox`. Raises
    `ConfigError` for a level that does not exist.
    """
    server = _preset(config, key).get("sandbox", config.sandbox)
    if server not in _LEVELS:
        raise ConfigError(f"models, {key}: sandbox is {server!r}. Allowed: {', '.join(_LEVELS)}.")
    asked = from_yaml.sandbox or "none"
    return _LEVELS[max(_LEVELS.index(server), _LEVELS.index(asked))]


def sandbox_net(config: ServerConfig, key: ModelKey) -> bool:
    """Whether the model has IP sockets at `strict`: the server's word alone."""
    return bool(_preset(config, key).get("sandboxNet", config.sandbox_net))


def _preset(config: ServerConfig, key: ModelKey) -> dict[str, object]:
    return config.models.get(key.name, {}).get(key.version, {})
