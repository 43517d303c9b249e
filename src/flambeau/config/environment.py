"""The environment that worker processes get."""

import os
import re
from collections.abc import Mapping

from flambeau.config.schema import ServerConfig


def worker_environment(
    config: ServerConfig, environment: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The server's environment without what `blacklist_env_vars` matches, and TorchServe's three.

    The pattern has to match a whole name (contract.md sections 3.3 and 9.2).
    """
    env = os.environ if environment is None else environment
    hidden = re.compile(config.blacklist_env_vars)
    told = {
        "TS_DECODE_INPUT_REQUEST": config.decode_input_request,
        "TS_IPEX_ENABLE": config.ipex_enable,
        "TS_IPEX_GPU_ENABLE": config.ipex_gpu_enable,
    }
    kept = {name: value for name, value in env.items() if not hidden.fullmatch(name)}
    return kept | {name: str(value).lower() for name, value in told.items()}
