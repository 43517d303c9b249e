"""Merge all sources into one `ServerConfig`.

Precedence for each key: environment (only where the file says `enable_envvars_config=true`),
command line, file, default (contract.md section 2.5). No other package reads the environment.
"""

import difflib
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, get_args, get_origin, get_type_hints

import msgspec

from flambeau.config.addresses import Address, parse_address
from flambeau.config.ignored import IGNORED, IGNORED_VARIABLES, SILENT
from flambeau.config.properties import read_properties
from flambeau.config.schema import MAX_REQUEST_BYTES, ServerConfig
from flambeau.config.setting import Setting
from flambeau.errors import ConfigError

Environment = Mapping[str, str]

OWN_FILE = "flambeau.toml"
_TRUE = {"true"}
_UNKNOWN = "not a known key"


def _schema() -> dict[str, tuple[object, Setting]]:
    """Each key's type (without `| None`) and what the schema says of it."""
    found: dict[str, tuple[object, Setting]] = {}
    for key, hint in get_type_hints(ServerConfig, include_extras=True).items():
        if get_origin(hint) is Annotated:
            kind, setting = get_args(hint)
            if isinstance(kind, UnionType):
                (kind,) = (part for part in get_args(kind) if part is not NoneType)
            found[key] = (kind, setting)
    return found


SCHEMA = _schema()


def variable_of(key: str) -> str:
    """The environment variable that overrides a key; the empty text where none can."""
    named = SCHEMA[key][1].variable
    return f"TS_{key.upper()}" if named is None else named


def load_config(
    file: Path | None, flags: Mapping[str, object], environment: Environment | None = None
) -> ServerConfig:
    """Merge all sources into one record. `flags` holds `ServerConfig` fields that were given.

    Raises `ConfigError` naming the key, the value and what is expected.
    """
    env = os.environ if environment is None else environment
    properties = _file_properties(file, env)
    overrides, unheard = _overrides(properties, env)
    values = _from_environment(env)
    values |= _parse(properties)
    values |= {key: value for key, value in flags.items() if value is not None}
    values |= _parse(overrides)
    if env.get("TS_OPEN_INFERENCE_PROTOCOL"):
        values["ts_open_inference_protocol"] = env["TS_OPEN_INFERENCE_PROTOCOL"] == "oip"
    values["notes"] = (*_notes(properties), *unheard, *_useless(env), *_lowered(values))
    return msgspec.structs.replace(ServerConfig(), **values)


def config_file(flag: str | None, environment: Environment | None = None) -> Path | None:
    """The configuration file: `TS_CONFIG_FILE`, the flag, or one in the working directory.

    There it is `config.properties`, or `flambeau.toml` if only that exists.
    """
    env = os.environ if environment is None else environment
    named = env.get("TS_CONFIG_FILE") or flag
    if named:
        path = Path(named)
        if not path.is_file():
            raise ConfigError(f"--ts-config file not found: {named}")
        return path
    defaults = (Path("config.properties"), Path(OWN_FILE))
    return next((path for path in defaults if path.is_file()), None)


def is_named(flag: str | None, environment: Environment | None = None) -> bool:
    """Whether somebody named a configuration file, by `TS_CONFIG_FILE` or by the flag."""
    env = os.environ if environment is None else environment
    return bool(env.get("TS_CONFIG_FILE") or flag)


def is_switched_on(file: Path, key: str, environment: Environment | None = None) -> bool:
    """Whether a configuration file says `key=true`."""
    env = os.environ if environment is None else environment
    return _switch(_file_properties(file, env).get(key, ""))


def log_folder(environment: Environment | None = None) -> Path:
    """The folder of the log files, as the environment says."""
    env = os.environ if environment is None else environment
    return Path(env.get("LOG_LOCATION") or "logs")


def default_cache_dir(environment: Environment | None = None) -> Path:
    """Where unpacked archives and prepared models are kept: `FLAMBEAU_CACHE` or the user's cache."""
    env = os.environ if environment is None else environment
    if env.get("FLAMBEAU_CACHE"):
        return Path(env["FLAMBEAU_CACHE"])
    return Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flambeau"


def _file_properties(file: Path | None, environment: Environment) -> dict[str, str]:
    """The file's keys and, over them, those of a `flambeau.toml` beside it."""
    if file is None:
        return {}
    properties = read_properties(file, environment)
    if "model_snapshot" in properties and "version" in properties:
        _make_portable(properties)
    beside = file.parent / OWN_FILE
    if file.suffix != ".toml" and beside.is_file():
        properties |= read_properties(beside, environment)
    return properties


def _make_portable(properties: dict[str, str]) -> None:
    """Take out of TorchServe's own snapshot what belongs to its installation, not to the models."""
    properties.pop("python", None)  # the interpreter that ran its launcher
    metrics = properties.get("metrics_config")
    if metrics and not Path(metrics).is_file():
        del properties["metrics_config"]  # the file of its package


def _overrides(
    properties: Mapping[str, str], environment: Environment
) -> tuple[dict[str, str], list[str]]:
    """Keys that the environment sets, and a note on variables that are not listened to."""
    found = {
        key: environment[variable_of(key)]
        for key, (_, setting) in SCHEMA.items()
        if setting.in_file and variable_of(key) in environment
    }
    found.pop("ts_open_inference_protocol", None)  # has a rule of its own, without a switch
    if not _switch(properties.get("enable_envvars_config", "")):
        heard: dict[str, str] = {}
        needed = "enable_envvars_config=true"
    else:
        heard = dict(found)
        if not _switch(properties.get("use_env_allowed_urls", "")):
            heard.pop("allowed_urls", None)
        needed = "use_env_allowed_urls=true"
    unheard = sorted(variable_of(key) for key in found.keys() - heard.keys())
    if not unheard:
        return heard, []
    return heard, [
        f"Environment variables that have no effect: {', '.join(unheard)};"
        f" the configuration file does not say {needed}"
    ]


def _from_environment(environment: Environment) -> dict[str, object]:
    """What only the environment sets (contract.md section 2.6)."""
    return {
        "log_location": log_folder(environment),
        "metrics_location": Path(environment.get("METRICS_LOCATION") or "logs"),
        "cache_dir": _cache_dir(environment),
    }


def _cache_dir(environment: Environment) -> Path:
    """Below `TEMP`, where TorchServe unpacks, unless `FLAMBEAU_CACHE` says otherwise."""
    temp = environment.get("TEMP")
    if temp and not Path(temp).is_dir():
        raise ConfigError(
            f"Invalid temp directory: {temp}, please check TEMP environment variable."
        )
    if temp and not environment.get("FLAMBEAU_CACHE"):
        return Path(temp) / "flambeau"
    return default_cache_dir(environment)


def _parse(properties: Mapping[str, str]) -> dict[str, object]:
    return {
        key: _value(key, text.strip())
        for key, text in properties.items()
        if key in SCHEMA and SCHEMA[key][1].in_file
    }


def _value(key: str, text: str) -> object:
    """Turn a text into the key's type. Booleans: anything but `true` is false (section 3)."""
    kind, setting = SCHEMA[key]
    if kind is Address:
        return parse_address(key, text)
    if kind in (int, float):
        return _number(key, text)
    value = _PARSERS[kind](text) if kind in _PARSERS else _json(key, text)
    if setting.choices:
        value = text.lower()
        if value not in setting.choices:
            allowed = ", ".join(choice for choice in setting.choices if choice)
            raise _wrong(key, text, f"one of {allowed}")
    if setting.regex:
        _check_patterns(key, value)
    return value


def _switch(text: str) -> bool:
    return text.strip().lower() in _TRUE


def _items(text: str) -> tuple[str, ...]:
    return tuple(item for part in text.split(",") if (item := part.strip()))


def _path(text: str) -> Path | None:
    return Path(text) if text else None


_PARSERS: dict[object, Callable[[str], object]] = {
    bool: _switch,
    str: str,
    Path: _path,
    tuple[str, ...]: _items,
}


def _wrong(key: str, text: str, expected: str) -> ConfigError:
    return ConfigError(f"Invalid configuration: {key}={text}: expected {expected}")


def _number(key: str, text: str) -> int | float:
    kind, setting = SCHEMA[key]
    number: float
    try:
        number = int(text) if kind is int else float(text)
    except ValueError:
        number = math.nan
    if not setting.low <= number <= setting.high:  # nan is not either
        noun = "a whole number" if kind is int else "a number"
        raise _wrong(key, text, f"{noun} from {setting.low:.0f} to {setting.high:.0f}")
    return number


def _json(key: str, text: str) -> object:
    if not text:
        return {}
    kind = SCHEMA[key][0]
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        form = '{"name": {"version": {"batchSize": 1, …}}}' if key == "models" else "a JSON object"
        raise ConfigError(f"Invalid configuration: {key}: expected {form}, but {error}") from error


def _check_patterns(key: str, value: object) -> None:
    for pattern in (value,) if isinstance(value, str) else _texts(value):
        try:
            re.compile(pattern)
        except re.error as error:
            raise _wrong(key, pattern, f"a regular expression, but {error}") from error


def _texts(value: object) -> Iterable[str]:
    assert isinstance(value, tuple)
    return value


def _useless(environment: Environment) -> list[str]:
    found = sorted(name for name in IGNORED_VARIABLES if environment.get(name))
    return [f"The variable {name} is ignored: {IGNORED_VARIABLES[name]}" for name in found]


def _lowered(values: dict[str, object]) -> list[str]:
    """Lower what TorchServe can do and we cannot, and say so."""
    size = values.get("max_request_size", 0)
    if not isinstance(size, int) or size <= MAX_REQUEST_BYTES:
        return []
    values["max_request_size"] = MAX_REQUEST_BYTES
    return [f"max_request_size={size} is lowered to {MAX_REQUEST_BYTES}, the most that is possible"]


def _notes(properties: Mapping[str, str]) -> list[str]:
    """One line for each reason why keys of the file have no effect, unknown keys last."""
    reasons: dict[str, list[str]] = {}
    known = {key for key, (_, setting) in SCHEMA.items() if setting.in_file}
    for key in sorted(key for key, text in properties.items() if text not in ("", "false")):
        if key in known:
            reason, named = SCHEMA[key][1].unused, key
        elif key in IGNORED or key in SILENT:
            reason, named = IGNORED.get(key, ""), key
        else:
            near = difflib.get_close_matches(key, [*known, *IGNORED], n=1, cutoff=0.75)
            reason, named = _UNKNOWN, key + (f" (did you mean {near[0]}?)" if near else "")
        if reason:
            reasons.setdefault(reason, []).append(named)
    ordered = sorted(reasons.items(), key=lambda item: item[0] == _UNKNOWN)
    return [f"Configuration, ignored ({why}): {', '.join(keys)}" for why, keys in ordered]
