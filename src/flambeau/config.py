"""The server's configuration: one frozen record, from flags, environment, file and defaults.

`config.properties` has TorchServe's keys (contract.md section 3) and one of ours: `preload`, the
Python modules that are imported once, before workers are forked (comma separated; empty: none, for
handlers that need no framework). Precedence for each key:
environment (`TS_<KEY>`, only where the file says `enable_envvars_config=true`), command line, file,
default. This is the only module that reads the environment.
"""

import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from typing_extensions import override

from flambeau.errors import ConfigError

Environment = Mapping[str, str]

_TRUE = {"true"}
_LOOPBACK = "127.0.0.1"
_INT32_MAX = 2**31 - 1
MAX_REQUEST_BYTES = 896 * 1024 * 1024
"""Highest `max_request_size`: what fits into one message to a worker."""


class Address(msgspec.Struct, frozen=True):
    """Where a listener is bound: a host and port, or the path of a UNIX socket."""

    host: str = _LOOPBACK
    port: int = 0
    path: str = ""

    @override
    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set for a server. Times are in seconds, sizes in bytes."""

    inference_address: Address = Address(port=8080)
    management_address: Address = Address(port=8081)
    metrics_address: Address = Address(port=8082)
    model_store: Path | None = None
    load_models: tuple[str, ...] = ()
    models: dict[str, dict[str, dict[str, object]]] = {}
    default_workers_per_model: int = 0
    default_response_timeout: float = 120
    default_startup_timeout: float = 120
    unregister_model_timeout: float = 120
    job_queue_size: int = 100
    max_request_size: int = 6553500
    decode_input_request: bool = True
    limit_max_image_pixels: bool = True
    default_service_handler: str = ""
    service_envelope: str = ""
    number_of_gpu: int = -1
    enable_model_api: bool = False
    enable_metrics_api: bool = True
    disable_token_authorization: bool = False
    log_location: Path | None = None
    cache_dir: Path = Path()
    preload: tuple[str, ...] = ("flambeau.handlers.preload",)
    notes: tuple[str, ...] = ()


_NUMBERS: dict[str, tuple[type[int] | type[float], int, int]] = {
    "default_workers_per_model": (int, 0, 1024),
    "default_response_timeout": (float, 1, _INT32_MAX),
    "default_startup_timeout": (float, 1, _INT32_MAX),
    "unregister_model_timeout": (float, 0, _INT32_MAX),
    "job_queue_size": (int, 1, _INT32_MAX),
    "max_request_size": (int, 1, MAX_REQUEST_BYTES),
    "number_of_gpu": (int, -1, _INT32_MAX),
}
_SWITCHES = (
    "decode_input_request",
    "limit_max_image_pixels",
    "enable_model_api",
    "enable_metrics_api",
    "disable_token_authorization",
)
_TEXTS = ("default_service_handler", "service_envelope")
_ADDRESSES = {"inference_address": 80, "management_address": 8081, "metrics_address": 8082}
_JVM_ONLY = frozenset(
    [
        "number_of_netty_threads",
        "netty_client_threads",
        "prefer_direct_buffer",
        "use_native_io",
        "io_ratio",
        "vmargs",
        "plugins_path",
        "async_logging",
        "keystore",
        "keystore_pass",
        "keystore_type",
        "initial_worker_port",
    ]
)
_HANDLED = frozenset([*_NUMBERS, *_SWITCHES, *_TEXTS, *_ADDRESSES]) | {
    "model_store",
    "load_models",
    "models",
    "enable_envvars_config",
    "preload",
}
_NOT_FROM_ENVIRONMENT = {"models", "enable_envvars_config"}


def load_config(
    file: Path | None, flags: Mapping[str, object], environment: Environment | None = None
) -> ServerConfig:
    """Merge all sources into one record. `flags` holds `ServerConfig` fields that were given.

    Raises `ConfigError` naming the key, the value and what is expected.
    """
    env = os.environ if environment is None else environment
    properties = read_properties(file, env) if file else {}
    overrides: dict[str, str] = {}
    if properties.get("enable_envvars_config", "").lower() in _TRUE:
        overrides = {
            key: env[f"TS_{key.upper()}"]
            for key in _HANDLED - _NOT_FROM_ENVIRONMENT
            if f"TS_{key.upper()}" in env
        }
    values: dict[str, object] = {"cache_dir": default_cache_dir(env)}
    if file is not None or env.get("LOG_LOCATION"):
        values["log_location"] = Path(env.get("LOG_LOCATION", "logs"))
    values |= _parse(properties)
    values |= {key: value for key, value in flags.items() if value is not None}
    values |= _parse(overrides)
    ignored = sorted(key for key in properties if key not in _HANDLED)
    values["notes"] = _notes(ignored)
    return msgspec.structs.replace(ServerConfig(), **values)


def config_file(flag: str | None, environment: Environment | None = None) -> Path | None:
    """The configuration file: `TS_CONFIG_FILE`, the flag, or `./config.properties` if it exists."""
    env = os.environ if environment is None else environment
    named = env.get("TS_CONFIG_FILE") or flag
    if named:
        path = Path(named)
        if not path.is_file():
            raise ConfigError(f"--ts-config file not found: {named}")
        return path
    default = Path("config.properties")
    return default if default.is_file() else None


def default_cache_dir(environment: Environment | None = None) -> Path:
    """Where unpacked archives and prepared models are kept: `FLAMBEAU_CACHE` or the user's cache."""
    env = os.environ if environment is None else environment
    if env.get("FLAMBEAU_CACHE"):
        return Path(env["FLAMBEAU_CACHE"])
    return Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flambeau"


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and a container's CPU limit if lower."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limit = _cgroup_cores(Path("/sys/fs/cgroup/cpu.max"))
    return max(1, min(cores or 1, limit or cores or 1))


def read_properties(file: Path, environment: Environment) -> dict[str, str]:
    """Parse a Java properties file; `$$NAME$$` is replaced by that environment variable."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    properties: dict[str, str] = {}
    for line in _logical_lines(text):
        match = re.match(r"((?:\\.|[^\\=:\s])+)\s*[=:\s]?\s*(.*)", line)
        if match is None:
            continue
        key, value = (_unescape(part) for part in match.groups())
        properties[key] = _expand(key, value, environment)
    return properties


def _logical_lines(text: str) -> Iterator[str]:
    """Lines without comments; one that ends in an odd number of backslashes goes on."""
    pending = ""
    for line in text.split("\n"):
        stripped = line.strip()
        if not pending and (not stripped or stripped[0] in "#!"):
            continue
        pending += stripped
        if (len(stripped) - len(stripped.rstrip("\\"))) % 2:
            pending = pending[:-1]
            continue
        yield pending
        pending = ""
    if pending:
        yield pending


def _unescape(text: str) -> str:
    def replace(match: re.Match[str]) -> str:
        code = match.group(1)
        if len(code) == 5:
            return chr(int(code[1:], 16))
        return {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}.get(code, code)

    return re.sub(r"\\(u[0-9a-fA-F]{4}|.)", replace, text)


def _expand(key: str, value: str, environment: Environment) -> str:
    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in environment:
            raise ConfigError(
                f"Invalid configuration: {key} refers to $${name}$$,"
                " but no environment variable of that name is set"
            )
        return environment[name]

    return re.sub(r"\$\$([A-Za-z0-9_]+)\$\$", replace, value)


def parse_address(key: str, text: str, default_port: int) -> Address:
    """Parse `http://host[:port]` or `unix:/path`."""
    if text.startswith("unix:") and text != "unix:":
        return Address(path=text.removeprefix("unix:"))
    if text.startswith("https://"):
        raise ConfigError(
            f"Invalid configuration: {key}={text}: https is not supported yet;"
            " put a TLS proxy in front, or use http://"
        )
    match = re.fullmatch(r"http://(\[[0-9a-fA-F:]+\]|[^:/\s]+)(?::(\d{1,5}))?/?", text)
    port = int(match.group(2) or default_port) if match else -1
    if match is None or not 0 <= port <= 65535:
        raise ConfigError(
            f"Invalid configuration: {key}={text}: expected http://host:port or unix:/path"
        )
    return Address(host=match.group(1).strip("[]"), port=port)


def _parse(properties: Mapping[str, str]) -> dict[str, object]:
    """Turn texts into the record's types. Booleans: anything but `true` is false (section 3)."""
    values: dict[str, object] = {}
    for key, text in properties.items():
        if key in _NUMBERS:
            values[key] = _number(key, text)
        elif key in _SWITCHES:
            values[key] = text.strip().lower() in _TRUE
        elif key in _TEXTS:
            values[key] = text.strip()
        elif key in _ADDRESSES:
            values[key] = parse_address(key, text.strip(), _ADDRESSES[key])
    if "preload" in properties:
        values["preload"] = _items(properties["preload"])
    if properties.get("model_store"):
        values["model_store"] = Path(properties["model_store"])
    if properties.get("load_models"):
        values["load_models"] = _items(properties["load_models"])
    if properties.get("models"):
        values["models"] = _models(properties["models"])
    return values


def _items(text: str) -> tuple[str, ...]:
    return tuple(item for part in text.split(",") if (item := part.strip()))


def _number(key: str, text: str) -> int | float:
    kind, low, high = _NUMBERS[key]
    number: float
    try:
        number = kind(text.strip())
    except ValueError:
        number = math.nan
    if not low <= number <= high:  # nan is not either
        expected = "a whole number" if kind is int else "a number"
        raise ConfigError(
            f"Invalid configuration: {key}={text}: expected {expected} from {low} to {high}"
        )
    return number


def _models(text: str) -> object:
    try:
        return msgspec.json.decode(text, type=dict[str, dict[str, dict[str, object]]])
    except msgspec.DecodeError as error:
        raise ConfigError(
            'Invalid configuration: models: expected {"name": {"version": {"batchSize": 1, …}}},'
            f" but {error}"
        ) from error


def _notes(ignored: list[str]) -> tuple[str, ...]:
    jvm = [key for key in ignored if key in _JVM_ONLY]
    unknown = [key for key in ignored if key not in _JVM_ONLY]
    notes = []
    if jvm:
        notes.append(f"config.properties: ignored, for TorchServe's JVM only: {', '.join(jvm)}")
    if unknown:
        notes.append(
            f"config.properties: ignored, not known or not supported yet: {', '.join(unknown)}"
        )
    return tuple(notes)


def _cgroup_cores(file: Path) -> int:
    try:
        quota, period = file.read_text().split()
    except (OSError, ValueError):
        return 0
    return 0 if quota == "max" else max(1, int(quota) // int(period))
