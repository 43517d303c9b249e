"""The environment that worker processes get, and the folder that confined ones have."""

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from flambeau.config.schema import ServerConfig


def worker_environment(
    config: ServerConfig, environment: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The server's environment without what `blacklist_env_vars` matches, and TorchServe's three.

    The pattern has to match a whole name (contract.md sections 3.3 and 9.2). Compute threads that
    wait do not spin for long, unless the environment says how they should wait. Names that speak of
    secrets are left out unless `pass_env_vars` has them: a handler is other people's code.
    """
    env = os.environ if environment is None else environment
    hidden = re.compile(config.blacklist_env_vars)
    told = {
        "TS_DECODE_INPUT_REQUEST": config.decode_input_request,
        "TS_IPEX_ENABLE": config.ipex_enable,
        "TS_IPEX_GPU_ENABLE": config.ipex_gpu_enable,
    }
    passed = re.compile("|".join(f"(?:{each})" for each in config.pass_env_vars) or "(?!)")
    kept = {
        name: value
        for name, value in env.items()
        if not hidden.fullmatch(name)
        and (not _SECRET.fullmatch(name) or name in told or passed.fullmatch(name))
    }
    if not kept.keys() & _WAITING:
        kept["GOMP_SPINCOUNT"] = _SPIN_COUNT
    return kept | {name: str(value).lower() for name, value in told.items()}


_WAITING = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
_SPIN_COUNT = "1000"
"""GNU OpenMP's is 300,000 where a process has no more threads than cores: on a core that something
else wants, too, they burn several times the CPU time of the computation itself (2 threads on two
busy cores: 616 ms a text, 184 with this, 123 with one thread; 2026-11-28)."""

_SECRET = re.compile(
    r".*(TOKEN(?!IZERS)|SECRET|PASSW|PASSPHRASE|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|KEYSTORE).*"
    r"|AWS_.*|AZURE_.*|GOOGLE_APPLICATION_.*|.*_(PAT|DSN|AUTH)|(DATABASE|REDIS|MONGO\w*|AMQP)_UR[IL]"
    r"|SSH_AUTH_SOCK|KUBECONFIG|DOCKER_(HOST|CONFIG)|NETRC|PGPASSFILE",
    re.IGNORECASE,
)


def private_folder(pid: int) -> Path:
    """Where a worker under the sandbox level `strict` may write; its parent removes it.

    Not the server's own `TMPDIR` in a confined process, which has this folder there.
    """
    return Path(tempfile.gettempdir(), f"flambeau-worker-{os.getuid()}-{pid}")
