"""Reads one row of a batch for the native handler: its value, and what the client said it is."""

import json
from collections.abc import Mapping
from typing import Protocol, get_args

from flambeau.errors import ErrorKind, PredictionError
from flambeau.tasks.base import RowValue, check_depth, decode_text, parse_structured_text
from flambeau.types import LANE_HEADER, Lane, OutputShape

OUTPUT_HEADER = "x-flambeau-output"

_VALUE_NAMES = ("data", "body")
_JSON_STARTS = ("{", "[", '"')


class RequestHeaders(Protocol):
    """What is read of TorchServe's context here."""

    def get_request_header(self, idx: int, key: str) -> object:
        """A header of item `idx`, or a field's own headers under the field's name."""


def read_row(index: int, row: object, context: RequestHeaders) -> RowValue:
    """A row's `data` or `body`; a form without either is an object of its decoded fields.

    Raises `PredictionError` (`INVALID_INPUT`) where the client declared JSON and sent none.
    """
    if not isinstance(row, Mapping):
        return row
    for name in _VALUE_NAMES:
        value = row.get(name)
        if isinstance(value, bytes | bytearray) and _is_json(index, name, context):
            return _parse_json(bytes(value))
        if value is not None:
            return value
    if row and row.keys() <= set(_VALUE_NAMES):
        return None  # the body is JSON's null
    return {
        name: decode_text(bytes(value)) if isinstance(value, bytes | bytearray) else value
        for name, value in row.items()
    }


def is_form(row: object) -> bool:
    """Whether a row holds a form's fields and neither `data` nor `body`."""
    return isinstance(row, Mapping) and not row.keys() & set(_VALUE_NAMES)


def with_form_hint(error: PredictionError) -> PredictionError:
    """`curl -d` sends a form unless told otherwise: the commonest reason for a wrong input."""
    return PredictionError(
        f"{error.message} The body came as a form, which is what curl -d sends: add"
        " -H 'Content-Type: text/plain' or -H 'Content-Type: application/json'.",
        error.kind,
    )


def read_shape(header: object) -> OutputShape | None:
    """The shape of answer that a request asks for. Raises `PredictionError` for another word."""
    if not isinstance(header, str) or not header.strip():
        return None
    match header.strip().lower():
        case "legacy":
            return "legacy"
        case "full":
            return "full"
        case _:
            pass
    raise PredictionError(
        f"The header {OUTPUT_HEADER} is {header!r}. Allowed: legacy, full.",
        ErrorKind.INVALID_INPUT,
    )


def read_lane(header: object) -> str | None:
    """The lane that a request asks for. Raises `PredictionError` for one that there is not."""
    if not isinstance(header, str) or not header.strip():
        return None
    lane = header.strip().lower()
    if lane not in get_args(Lane):
        raise PredictionError(
            f"The header {LANE_HEADER} is {header!r}. Allowed: {', '.join(get_args(Lane))}.",
            ErrorKind.INVALID_INPUT,
        )
    return lane


def _is_json(index: int, name: str, context: RequestHeaders) -> bool:
    """Whether the client declared a value JSON; a part of a form has a type of its own."""
    declared = context.get_request_header(index, name)
    if isinstance(declared, Mapping):
        declared = declared.get("content-type")
    else:  # a request header may have the field's name
        declared = context.get_request_header(index, "content-type")
    media_type = declared.partition(";")[0] if isinstance(declared, str) else ""
    return media_type.strip().lower() == "application/json"


def _parse_json(body: bytes) -> RowValue:
    """What a body declared as JSON holds.

    It comes as bytes where it did not parse before, or where nobody tried: the archive's
    `decode_input` is off, or the type is not in lower case. A Python literal passes for an object,
    since clients of TorchServe's Transformers example send it under any type; for the same reason a
    text that does not even begin like JSON is taken as the text that it is.
    """
    try:
        check_depth(body)
        value: RowValue = json.loads(body)
    except UnicodeDecodeError:
        value = decode_text(body)  # raises, with the place
    except json.JSONDecodeError as error:
        value = parse_structured_text(decode_text(body))
        if isinstance(value, str) and value.lstrip().startswith(_JSON_STARTS):
            place = f" (line {error.lineno}, column {error.colno})"
            raise _not_json(f"{place}: {error.msg}") from None
    except ValueError:
        raise _not_json(": a number in it has too many digits") from None
    except RecursionError:
        raise _not_json(": it is nested too deeply") from None
    return value


def _not_json(reason: str) -> PredictionError:
    return PredictionError(
        f"The body is not valid JSON{reason}. Mend it, or send plain text with Content-Type:"
        " text/plain.",
        ErrorKind.INVALID_INPUT,
    )
