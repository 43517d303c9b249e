"""OpenAPI 3.0.1 documents from descriptions of operations (contract.md section 6.9).

`flambeau.protocols.operations` describes what this server does; here it becomes a document.
"""

from collections.abc import Iterable

import msgspec

Schema = dict[str, object]

VERSION = "3.0.1"
STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
BOOLEAN: Schema = {"type": "boolean"}
BINARY: Schema = {"type": "string", "format": "binary"}
JSON = "application/json"


class Parameter(msgspec.Struct, frozen=True):
    """A parameter of the query, or of the path, where it is always required."""

    name: str
    summary: str
    schema: Schema = msgspec.field(default_factory=lambda: STRING)
    place: str = "query"
    required: bool = False


class Body(msgspec.Struct, frozen=True):
    """What a request or a response holds, in one media type."""

    schema: Schema
    media_type: str = JSON


class Operation(msgspec.Struct, frozen=True):
    """One method of one path. `responses` hold a text, and what is sent with it (None: nothing)."""

    id: str
    method: str
    path: str
    summary: str
    responses: dict[int, tuple[str, Body | None]]
    parameters: tuple[Parameter, ...] = ()
    body: Body | None = None
    body_required: bool = False
    deprecated: bool = False
    server: str = ""


def object_schema(**properties: Schema) -> Schema:
    """An object with these properties, of which all but the ones marked `optional` are required."""
    required = [name for name, schema in properties.items() if not schema.get("x-optional")]
    plain = {
        name: {key: value for key, value in schema.items() if key != "x-optional"}
        for name, schema in properties.items()
    }
    return {"type": "object", "required": required, "properties": plain}


def optional(schema: Schema) -> Schema:
    """A property that an object need not have."""
    return {**schema, "x-optional": True}


def array_of(items: Schema) -> Schema:
    """A list."""
    return {"type": "array", "items": items}


def described(schema: Schema, text: str) -> Schema:
    """A schema with a description."""
    return {**schema, "description": text}


def reference(name: str) -> Schema:
    """A schema of the document's components."""
    return {"$ref": f"#/components/schemas/{name}"}


def openapi_document(
    title: str, version: str, operations: Iterable[Operation], components: dict[str, Schema]
) -> dict[str, object]:
    """The document of these operations; of `components`, those that they refer to."""
    paths: dict[str, dict[str, object]] = {}
    for operation in operations:
        item = paths.setdefault(operation.path, {})
        item[operation.method] = _operation(operation)
        if operation.server:
            item["servers"] = [{"url": operation.server}]
    document: dict[str, object] = {
        "openapi": VERSION,
        "info": {"title": title, "version": version},
        "paths": paths,
    }
    used = {name: schema for name, schema in components.items() if _refers(paths, name)}
    if used:
        document["components"] = {"schemas": used}
    return document


def _operation(operation: Operation) -> dict[str, object]:
    parameters = [
        _parameter(each) for each in (*_path_parameters(operation), *operation.parameters)
    ]
    document: dict[str, object] = {"summary": operation.summary, "operationId": operation.id}
    if parameters:
        document["parameters"] = parameters
    if operation.body is not None:
        document["requestBody"] = {
            "required": operation.body_required,
            "content": _content(operation.body),
        }
    document["responses"] = {
        str(status): {"description": text} | ({"content": _content(body)} if body else {})
        for status, (text, body) in operation.responses.items()
    }
    if operation.deprecated:
        document["deprecated"] = True
    return document


_PATH_PARAMETERS = {
    "model_name": Parameter("model_name", "Name of the model.", place="path"),
    "model_version": Parameter("model_version", "Version of the model.", place="path"),
    "url_path": Parameter("url_path", "A path of the handler's own.", place="path"),
}


def _path_parameters(operation: Operation) -> list[Parameter]:
    return [
        parameter for name, parameter in _PATH_PARAMETERS.items() if f"{{{name}}}" in operation.path
    ]


def _parameter(parameter: Parameter) -> dict[str, object]:
    return {
        "in": parameter.place,
        "name": parameter.name,
        "description": parameter.summary,
        "required": parameter.required or parameter.place == "path",
        "schema": parameter.schema,
    }


def _content(body: Body) -> dict[str, object]:
    return {body.media_type: {"schema": body.schema}}


def _refers(value: object, name: str) -> bool:
    if isinstance(value, dict):
        if value == reference(name):
            return True
        return any(_refers(each, name) for each in value.values())
    return isinstance(value, list) and any(_refers(each, name) for each in value)
