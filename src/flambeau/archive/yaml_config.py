"""Reads `model-config.yaml`: the one reader for the server and for workers.

Rules: whatever is wrong with the file is one `ArchiveError` of one line, never a traceback. Size
and nesting are limited, since libyaml composes nested nodes by recursion in C and would overflow
the stack of the whole process. A full-size file may take a second: not for an event loop.
"""

from pathlib import Path

import yaml

from flambeau.errors import ArchiveError

MAX_YAML_BYTES = 1024 * 1024
"""Bytes of a configuration file; real ones have a few hundred."""

MAX_YAML_DEPTH = 64
"""Collections within collections."""

_SafeLoader: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = getattr(
    yaml, "CSafeLoader", yaml.SafeLoader
)


def read_yaml(path: Path) -> dict[str, object]:
    """Return the file's top-level mapping, {} where it is empty.

    Raises `ArchiveError` naming the file, the reason and, where YAML tells, the line: the file is
    missing, too large, no UTF-8, no YAML, nested too deeply, or no mapping.
    """
    text = _read_text(path)
    try:
        _check_depth(path, text)
        document: object = yaml.load(text, Loader=_SafeLoader)  # noqa: S506  # both loaders are safe
    except yaml.YAMLError as error:
        raise ArchiveError(f"{path.name} is not valid YAML: {_one_line(error)}") from error
    except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError) as error:
        # What PyYAML's constructors raise for `2024-99-99`, `!!int ""`, `!!timestamp x` and the like.
        text = f"{path.name} holds a value that YAML cannot represent: {_one_line(error)}"
        raise ArchiveError(text) from error
    except RecursionError as error:
        raise _too_deep(path) from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        kind = type(document).__name__
        raise ArchiveError(
            f"{path.name}, line 1: it must be a mapping of keys to values, not {kind}."
        )
    return document


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_YAML_BYTES + 1)
    except OSError as error:
        reason = error.strerror or _one_line(error)
        raise ArchiveError(f"{path.name} cannot be read: {reason}") from error
    if len(data) > MAX_YAML_BYTES:
        raise ArchiveError(f"{path.name} is larger than {MAX_YAML_BYTES} bytes: keep only settings")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ArchiveError(f"{path.name} is not UTF-8: {error}") from error


def _check_depth(path: Path, text: str) -> None:
    """Walk the events, which needs no recursion, before nodes are composed, which does."""
    depth = 0
    for event in yaml.parse(text, Loader=_SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_YAML_DEPTH:
                raise _too_deep(path)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _too_deep(path: Path) -> ArchiveError:
    return ArchiveError(f"{path.name} is nested more than {MAX_YAML_DEPTH} levels deep: flatten it")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
