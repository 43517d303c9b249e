"""An archive's Python files, parsed and never run."""

import ast
import warnings
from collections.abc import Iterator
from pathlib import Path

import msgspec

from flambeau.doctor.findings import Finding

_MAX_BYTES = 2 * 1024 * 1024
_SKIPPED = frozenset({"__pycache__", "MAR-INF"})


class Source(msgspec.Struct, frozen=True):
    """One Python file: its path below the archive's root, and its tree."""

    file: str
    tree: ast.Module

    def at(self, node: ast.AST) -> str:
        """Where a node is: `file:line`."""
        return f"{self.file}:{getattr(node, 'lineno', 1)}"


def read_sources(model_dir: Path) -> tuple[list[Source], list[Finding]]:
    """Parse all Python files of an archive; one that cannot be is a finding."""
    sources: list[Source] = []
    findings: list[Finding] = []
    for path in sorted(model_dir.rglob("*.py")):
        name = path.relative_to(model_dir)
        if not path.is_file() or not _SKIPPED.isdisjoint(name.parts):
            continue
        try:
            sources.append(Source(name.as_posix(), parse(path)))
        except SyntaxError as error:
            where = f"{name.as_posix()}:{error.lineno or 1}"
            findings.append(
                Finding(
                    "error",
                    "syntax",
                    where,
                    f"This is not Python 3: {error.msg}.",
                    "Bring the file to Python 3; 2to3 does most of it.",
                )
            )
        except (ValueError, RecursionError, MemoryError, OSError) as error:
            what = f"The file cannot be read: {error}."
            findings.append(Finding("error", "unreadable", name.as_posix(), what))
    return sources, findings


def parse(path: Path) -> ast.Module:
    """Parse a file. Raises `SyntaxError`, `ValueError`, `RecursionError` or `OSError`."""
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"it has more than {_MAX_BYTES} bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the user's code, which is not run here
        return ast.parse(path.read_bytes())


def dotted(node: ast.AST) -> str:
    """`a.b.c` of a name or attribute, "" for anything else; calls in between read as `()`."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=name):
            inner = dotted(value)
            return f"{inner}.{name}" if inner else f"?.{name}"
        case ast.Call(func=func):
            return f"{dotted(func)}()"
        case _:
            return ""


def text_of(node: ast.AST | None) -> str | None:
    """The text of a string literal; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return None


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    """Every call."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    """The value of a keyword argument, None where it is not given."""
    return next((each.value for each in call.keywords if each.arg == name), None)
