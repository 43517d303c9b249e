"""What a request may set under `parameters`: names, types and ranges, told apart in one place.

>>> class Parameters(BaseParameters, frozen=True):
...     top_k: Annotated[int, msgspec.Meta(ge=1)] | None = None
>>> read_parameters(Parameters, {"top_k": 3}).top_k
3
>>> read_parameters(Parameters, {"top_k": 0})
Traceback (most recent call last):
    ...
flambeau.tasks.base.parameters.WrongParameterError: 'top_k' must be a whole number from 1 on, not 0
"""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from flambeau.tasks.base.parsing import json_type
from flambeau.tasks.base.records import Truncation

__all__ = ["BaseParameters", "WrongParameterError", "read_parameters"]


class BaseParameters(msgspec.Struct, frozen=True, kw_only=True):
    """What requests to every task may set.

    `details` wraps the answer: `{"outputs": …, "usage": {…}}`. `truncation` None: the task's own.
    """

    details: bool = False
    truncation: Truncation | None = None


Parameters = TypeVar("Parameters", bound=BaseParameters)


class WrongParameterError(ValueError):
    """A parameter that there is not, or a value that it does not take. The text says which."""


def read_parameters(kind: type[Parameters], given: Mapping[str, Any]) -> Parameters:
    """Check names and values. A null stands for the default, unless null is a value of its own.

    Raises `WrongParameterError` that names the parameter, its value and what is allowed.
    """
    fields = _fields(kind)
    unknown = sorted(given.keys() - fields.keys())
    if unknown:
        raise WrongParameterError(
            f"unknown parameters {', '.join(unknown)[:200]} (known: {', '.join(sorted(fields))})"
        )
    values = {
        name: value for name, value in given.items() if value is not None or fields[name].takes_null
    }
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError:
        name = next(name for name, value in values.items() if not fields[name].takes(value))
        raise WrongParameterError(
            f"'{name}' must be {fields[name].allowed}, not {shown(values[name])}"
        ) from None


def shown(value: object) -> str:
    """The start of a value as JSON; a Python literal can hold what JSON cannot express."""
    try:
        return json.dumps(value, ensure_ascii=False)[:50]
    except (TypeError, ValueError, RecursionError):
        return json_type(value)


class _Field(msgspec.Struct, frozen=True):
    annotation: Any
    allowed: str
    takes_null: bool

    def takes(self, value: object) -> bool:
        try:
            msgspec.convert(value, self.annotation)
        except msgspec.ValidationError:
            return False
        return True


@cache
def _fields(kind: type[BaseParameters]) -> dict[str, _Field]:
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    annotations = {field.name: field.type for field in msgspec.structs.fields(kind)}
    return {
        field.encode_name: _Field(
            annotations[field.name],
            _allowed(field.type, null=field.default is not None),
            field.default is not None and _takes_null(field.type),
        )
        for field in info.fields
    }


def _takes_null(kind: inspect.Type) -> bool:
    return isinstance(kind, inspect.UnionType) and kind.includes_none


def _allowed(kind: inspect.Type, *, null: bool = True) -> str:
    """A type in words. A description that its annotation carries says it better than we could."""
    match kind:
        case inspect.Metadata(type=inner, extra_json_schema=extra):
            return str((extra or {}).get("description") or _allowed(inner))
        case inspect.UnionType(types=types):
            kept = [each for each in types if null or not isinstance(each, inspect.NoneType)]
            return " or ".join(dict.fromkeys(map(_allowed, kept)))
        case inspect.IntType() | inspect.FloatType():
            whole = "whole " if isinstance(kind, inspect.IntType) else ""
            return f"a {whole}number{_range(kind)}"
        case inspect.LiteralType(values=values):
            return " or ".join(map(json.dumps, values))
        case inspect.ListType(item_type=item):
            return f"a list of {_allowed(item).removeprefix('a ')}s"
        case _:
            names = {"BoolType": "true or false", "StrType": "a text", "NoneType": "null"}
            return names.get(type(kind).__name__, "an object")


def _range(kind: inspect.IntType | inspect.FloatType) -> str:
    if kind.gt is not None:
        return f" above {kind.gt}" + (f" and at most {kind.le}" if kind.le is not None else "")
    if kind.ge is None:
        return f" of at most {kind.le}" if kind.le is not None else ""
    return f" from {kind.ge} to {kind.le}" if kind.le is not None else f" from {kind.ge} on"
