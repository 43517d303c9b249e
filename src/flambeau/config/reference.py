"""`python -m flambeau.config.reference > docs/configuration.md`: the page, made from the schema."""

import sys
from pathlib import Path

import msgspec

from flambeau.config.addresses import Address
from flambeau.config.ignored import IGNORED, IGNORED_VARIABLES
from flambeau.config.load import SCHEMA, variable_of
from flambeau.config.schema import ServerConfig
from flambeau.config.setting import INT32_MAX, INT64_MAX, Setting

_CHAPTERS = {
    "inference_address": "Addresses, browsers, TLS, sizes",
    "grpc_inference_address": "gRPC",
    "model_store": "Models and requests",
    "number_of_gpu": "Workers",
    "enable_model_api": "Access",
    "enable_metrics_api": "Metrics",
    "log_location": "Set by environment variables only",
}
"""Where a chapter begins: its first key."""

_INTRODUCTION = """\
# Configuration

Made from `src/flambeau/config/schema.py` by `python -m flambeau.config.reference`; do not edit.

Keys and their syntax are those of TorchServe's `config.properties`. The file is `TS_CONFIG_FILE`, or
`--ts-config`, or `config.properties` in the working directory. The same keys may stand in a
`flambeau.toml`, with TOML's types: in place of the file (`--ts-config flambeau.toml`, or alone in the
working directory), or beside it, where it overrides key by key. Keys marked * are Flambeau's own.

For each key the environment beats the command line, which beats the file, which beats the default. The
environment counts only where the file says `enable_envvars_config=true`; a variable that is set and not
listened to is warned of. `$$NAME$$` in a value stands for that environment variable. A switch is true for
`true` in any case and false for anything else. A wrong value ends the start with an error that names the
key, the value and what is expected; an unknown key is warned of.
"""


def reference() -> str:
    """The whole page."""
    defaults = {field.name: field.default for field in msgspec.structs.fields(ServerConfig)}
    factories = {
        field.name: field.default_factory for field in msgspec.structs.fields(ServerConfig)
    }
    lines = [_INTRODUCTION]
    for key, (kind, setting) in SCHEMA.items():
        if key in _CHAPTERS:
            lines += [f"\n## {_CHAPTERS[key]}\n", "| key | type | default | variable | meaning |"]
            lines += ["| --- | --- | --- | --- | --- |"]
        default = defaults[key]
        if default is msgspec.NODEFAULT:
            factory = factories[key]
            default = factory() if callable(factory) else ""
        mark = " *" if setting.own else ""
        name = f"`{key}`{mark}" if setting.in_file else ""
        variable = f"`{variable_of(key)}`" if variable_of(key) else ""
        cells = [name, _kind(kind, setting), _default(default), variable, _meaning(setting)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines += ["\n## Accepted and ignored\n", "| key or variable | why |", "| --- | --- |"]
    ignored = {**IGNORED, **IGNORED_VARIABLES}
    lines += [f"| `{key}` | {why} |" for key, why in ignored.items()]
    return "\n".join(lines) + "\n"


def _kind(kind: object, setting: Setting) -> str:
    if setting.choices:
        return ", ".join(f"`{choice}`" for choice in setting.choices if choice)
    if kind in (int, float):
        noun = "whole number" if kind is int else "number"
        high = "" if setting.high in (INT32_MAX, INT64_MAX) else f" to {setting.high:.0f}"
        return f"{noun}, {setting.low:.0f}{high or ' or more'}"
    names: dict[object, str] = {
        bool: "switch",
        str: "text",
        Path: "path",
        Address: "address",
        tuple[str, ...]: "comma list",
    }
    return names.get(kind, "JSON")


def _default(value: object) -> str:
    if isinstance(value, tuple):
        value = ",".join(value)
    if value in (None, "", {}, Path()):
        return ""
    if value == INT64_MAX:
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _meaning(setting: Setting) -> str:
    unit = f"; {setting.unit}" if setting.unit else ""
    unused = f". No effect: {setting.unused}" if setting.unused else ""
    return f"{setting.meaning}{unit}{unused}"


if __name__ == "__main__":
    sys.stdout.write(reference())
