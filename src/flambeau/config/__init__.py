"""The server's configuration: one frozen record, from flags, environment, file and defaults.

`schema.py` holds every key; `docs/configuration.md` is made from it. Only this package reads the
environment.
"""

from flambeau.config.addresses import Address, parse_address
from flambeau.config.effective import effective_properties
from flambeau.config.environment import private_folder, worker_environment
from flambeau.config.load import (
    Environment,
    config_file,
    default_cache_dir,
    is_named,
    is_switched_on,
    load_config,
    log_folder,
)
from flambeau.config.machine import usable_cores
from flambeau.config.properties import java_properties, read_properties
from flambeau.config.schema import DEFAULT_PRELOAD, MAX_REQUEST_BYTES, ServerConfig

__all__ = [
    "DEFAULT_PRELOAD",
    "MAX_REQUEST_BYTES",
    "Address",
    "Environment",
    "ServerConfig",
    "config_file",
    "default_cache_dir",
    "effective_properties",
    "is_named",
    "is_switched_on",
    "java_properties",
    "load_config",
    "log_folder",
    "parse_address",
    "private_folder",
    "read_properties",
    "usable_cores",
    "worker_environment",
]
