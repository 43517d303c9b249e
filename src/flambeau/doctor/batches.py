"""Code that answers one request where a batch has several."""

import ast
from collections.abc import Iterator

from flambeau.doctor.findings import Finding
from flambeau.doctor.sources import Source, dotted

_STEPS = frozenset({"handle", "preprocess", "inference", "postprocess"})
_SELF = frozenset({"self", "cls"})


def check_batches(sources: list[Source], entry: str, batch_size: int) -> list[Finding]:
    """Findings on functions that look at the first request only; `entry` is the handler's function.

    With a batch size of 1 that is right, and worth a note: a larger one would lose requests.
    """
    names = _STEPS | {entry}
    return [
        _finding(source.at(node), function.name, batch_size)
        for source in sources
        for function in ast.walk(source.tree)
        if isinstance(function, ast.FunctionDef) and function.name in names
        if (node := _only_first(function)) is not None
    ]


def _finding(where: str, function: str, batch_size: int) -> Finding:
    what = f"{function} reads the first request of a batch and no other"
    if batch_size > 1:
        return Finding(
            "error",
            "batch-unsafe",
            where,
            f"{what}, but batchSize is {batch_size}.",
            "Loop over all rows and return one answer for each, or set batchSize to 1.",
        )
    return Finding(
        "note",
        "batch-unsafe",
        where,
        f"{what}: it is served with batchSize 1.",
        "To batch, loop over all rows and return one answer for each.",
    )


def _only_first(function: ast.FunctionDef) -> ast.AST | None:
    """The node `data[0]` of a function that uses its first parameter in no other way."""
    parameters = [each.arg for each in function.args.args if each.arg not in _SELF]
    if not parameters:
        return None
    data = parameters[0]
    aliases = {data}
    first = None
    for node in _uses(function, aliases):
        if not isinstance(node, ast.Subscript):
            return None
        if not isinstance(node.slice, ast.Constant) or node.slice.value != 0:
            return None
        first = first or node
    return first


def _uses(function: ast.FunctionDef, names: set[str]) -> Iterator[ast.AST]:
    """Every use of a name: the subscript around it, or the name itself.

    Tests such as `data is None`, `not data` or `len(data) == 0` and calls of loggers do not count.
    """
    around = {
        id(child): parent for parent in ast.walk(function) for child in ast.iter_child_nodes(parent)
    }
    for node in ast.walk(function):
        if not isinstance(node, ast.Name) or node.id not in names:
            continue
        if isinstance(node.ctx, ast.Store):
            continue
        parent = around[id(node)]
        if isinstance(parent, ast.Subscript) and parent.value is node:
            yield parent
        elif not _is_test_or_log(parent):
            yield node


def _is_test_or_log(parent: ast.AST) -> bool:
    if isinstance(parent, ast.Compare | ast.UnaryOp | ast.BoolOp | ast.If | ast.FormattedValue):
        return True
    if not isinstance(parent, ast.Call):
        return False
    name = dotted(parent.func)
    return name in {"print", "type", "isinstance"} or "log" in name.lower()
