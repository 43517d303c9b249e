"""What of two answers is compared, and what may differ from run to run."""

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

import httpx

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_VOLATILE = {"id", "startTime", "pid", "memoryUsage", "gpuUsage"}
_HEADERS = ("x-own", "pragma", "cache-control", "expires")


class Answer(NamedTuple):
    """The comparable parts of a response: a body that is JSON is compared as a document."""

    status: int
    content_type: str
    headers: dict[str, str]
    has_request_id: bool
    body: object

    def differences(self, other: "Answer") -> list[str]:
        """The parts in which two answers differ, in words."""
        return [
            f"{name}{text}"
            for name, mine, theirs in zip(self._fields, self, other, strict=True)
            for text in _differences(mine, theirs)
        ]


def answer_of(response: httpx.Response) -> Answer:
    """The comparable parts of a response."""
    headers = {name: response.headers[name] for name in _HEADERS if name in response.headers}
    return Answer(
        response.status_code,
        response.headers.get("content-type", ""),
        headers,
        "x-request-id" in response.headers,
        _body(response),
    )


def _body(response: httpx.Response) -> object:
    text = _UUID.sub("<uuid>", response.content.decode("latin-1"))
    if text.startswith("# HELP"):
        return _Series(_series(line) for line in text.splitlines() if line and line[0] != "#")
    try:
        document = json.loads(response.content)
    except ValueError:
        return text
    if isinstance(document, dict) and "openapi" in document:
        return _operations(document)
    return _steady(document)


class _Series(frozenset[str]):
    """Names and label names of a metrics page; compared as a set."""


def _differences(mine: object, theirs: object, where: str = "") -> Iterator[str]:
    """The smallest parts that differ, each with its place in the document."""
    if isinstance(mine, _Series) and isinstance(theirs, _Series):
        for name in sorted(mine ^ theirs):
            yield f"{where}: {'missing' if name in mine else 'extra'} {name}"
    elif isinstance(mine, dict) and isinstance(theirs, dict):
        if list(mine) != list(theirs) and set(mine) == set(theirs):
            yield f"{where}: order {list(mine)} | {list(theirs)}"
        for key in mine | theirs:
            yield from _differences(mine.get(key, "-"), theirs.get(key, "-"), f"{where}.{key}")
    elif isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
        for index, (one, other) in enumerate(zip(mine, theirs, strict=True)):
            yield from _differences(one, other, f"{where}[{index}]")
    elif mine != theirs or type(mine) is not type(theirs):
        yield f"{where}: {_short(mine)} | {_short(theirs)}"


def _series(line: str) -> str:
    """A sample's name and label names: values and label values are each server's own."""
    name, _, labels = line.rpartition(" ")[0].partition("{")
    keys = sorted(re.findall(r'(\w+)="', labels))
    return f"{name}{{{','.join(keys)}}}"


def _operations(document: dict[str, object]) -> object:
    """Of an OpenAPI document: the title and the calls."""
    paths = document["paths"]
    assert isinstance(paths, dict)
    calls = sorted(
        f"{method} {operation.get('operationId')}"
        for operations in paths.values()
        for method, operation in operations.items()
        if isinstance(operation, dict) and "operationId" in operation
    )
    return {"openapi": document["openapi"], "calls": calls}


def _steady(value: object) -> object:
    """A document without what is each run's own."""
    if isinstance(value, dict):
        return {key: "<any>" if key in _VOLATILE else _steady(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_steady(item) for item in value]
    if isinstance(value, str):
        return _UUID.sub("<uuid>", value)
    return "NaN" if value != value else value  # nan equals nothing


def _short(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) < 400 else text[:400] + "…"
