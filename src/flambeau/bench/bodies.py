"""The requests' bodies: texts, put into a template."""

import json
from pathlib import Path
from urllib.parse import quote_plus

import msgspec

from flambeau.errors import ConfigError

PLACEHOLDER = "{text}"

_LINES_OF_JSON = (".jsonl", ".ndjson")
_FIELDS = ("text", "inputs", "input", "data", "body")


def read_texts(file: Path) -> list[str]:
    """The texts of a file: one a line, or JSONL whose lines are strings or objects with a `text`.

    Raises `ConfigError` that names the file and the line.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}.") from error
    if file.suffix in _LINES_OF_JSON:
        texts = [_text_of(file, at, line) for at, line in enumerate(lines, 1) if line.strip()]
    else:
        texts = [line for line in lines if line.strip()]
    if not texts:
        raise ConfigError(f"{file} holds no text.")
    return texts


def _text_of(file: Path, number: int, line: str) -> str:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{file}, line {number}: not JSON: {error}.") from error
    if isinstance(value, dict):
        value = next((value[name] for name in _FIELDS if name in value), None)
    if not isinstance(value, str):
        raise ConfigError(
            f"{file}, line {number}: neither a string nor an object with one of {', '.join(_FIELDS)}."
        )
    return value


class Bodies(msgspec.Struct, frozen=True):
    """What is sent in turn, and its content type."""

    content_type: str
    bodies: list[bytes]


def make_bodies(texts: list[str], template: str, content_type: str | None) -> Bodies:
    """Each text in the template's place `{text}`, escaped as the content type asks for.

    A template without a place is sent as it is. Without `content_type`: JSON if the template
    begins as JSON does, else plain text.
    """
    looks_json = template.lstrip()[:1] in ("{", "[") and template.strip() != PLACEHOLDER
    chosen = content_type or ("application/json" if looks_json else "text/plain")
    if PLACEHOLDER not in template:
        return Bodies(chosen, [template.encode()])
    kind = chosen.partition(";")[0].strip().lower()
    parts = template.split(PLACEHOLDER)
    bodies = [_escape(text, kind).join(parts).encode() for text in texts]
    if kind.endswith("json"):
        _check_json(bodies[0])
    return Bodies(chosen, bodies)


def _escape(text: str, kind: str) -> str:
    """JSON's escapes without the quotes, which are the template's."""
    if kind.endswith("json"):
        return json.dumps(text)[1:-1]
    return quote_plus(text) if kind == "application/x-www-form-urlencoded" else text


def _check_json(body: bytes) -> None:
    try:
        json.loads(body)
    except ValueError as error:
        raise ConfigError(
            f"The body template gives no JSON ({error}): {body[:200].decode(errors='replace')} - quote the place, as"
            ' in {"text": "{text}"}.'
        ) from error
