"""The syntax of configuration files: Java properties (read and written), and TOML to read."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

from flambeau.errors import ConfigError

_ESCAPES = {"\t": "\\t", "\n": "\\n", "\r": "\\r", "\f": "\\f"}


def read_properties(file: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Keys and texts of a file: TOML if its name ends so, else a Java properties file.

    `$$NAME$$` is replaced by that environment variable; `ConfigError` if it is not set.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}") from error
    pairs = (
        _toml(file, _text(file, data)) if file.suffix == ".toml" else _java(_java_text(file, data))
    )
    return {key: _expand(key, value, environment) for key, value in pairs.items()}


def java_properties(pairs: Mapping[str, str]) -> str:
    """Write keys and values as Java's `Properties.store` does: one line each, in ASCII."""
    lines = (f"{_escape(key, ' ')}={_escape(value, '')}" for key, value in pairs.items())
    return "".join(f"{line}\n" for line in lines)


def _escape(text: str, also: str) -> str:
    escaped = []
    for index, character in enumerate(text):
        if character in _ESCAPES:
            escaped.append(_ESCAPES[character])
        elif character in f"=:#!\\{also}" or (character == " " and index == 0):
            escaped.append(f"\\{character}")
        elif " " <= character <= "~":
            escaped.append(character)
        else:
            units = character.encode("utf-16-be", "surrogatepass").hex()
            escaped += [f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4)]
    return "".join(escaped)


def _text(file: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error


def _java_text(file: Path, data: bytes) -> str:
    """UTF-8, which Java reads as Latin-1; and Latin-1 where it is that, since Java takes it too."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if b"\0" in data:
            raise ConfigError(f"{file} cannot be read: it is no text in UTF-8") from error
        return data.decode("latin-1")


def _toml(file: Path, text: str) -> dict[str, str]:
    """The same keys as in a properties file, with TOML's types for their values."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    return {key: _as_text(value) for key, value in table.items()}


def _as_text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ",".join(_as_text(item) for item in value)
    return json.dumps(value, default=str)  # numbers, switches, and tables as JSON


def _java(text: str) -> dict[str, str]:
    properties: dict[str, str] = {}
    for line in _logical_lines(text):
        match = re.match(r"((?:\\.|[^\\=:\s])+)\s*[=:\s]?\s*(.*)", line)
        if match is not None:
            key, value = (_unescape(part) for part in match.groups())
            properties[key] = value
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

    text = re.sub(r"\\(u[0-9a-fA-F]{4}|.)", replace, text)
    # Java escapes a character beyond 16 bits as a pair.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _expand(key: str, value: str, environment: Mapping[str, str]) -> str:
    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in environment:
            raise ConfigError(
                f"Invalid configuration: {key} refers to $${name}$$,"
                " but no environment variable of that name is set"
            )
        return environment[name]

    return re.sub(r"\$\$([^$\s]+)\$\$", replace, value)
