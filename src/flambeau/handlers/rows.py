"""A request as the row dict that handlers read (contract.md section 5.3)."""

import json
import logging

from flambeau.tasks.base import MAX_DEPTH, check_depth
from flambeau.types import Field, InferenceRequest, JsonValue

__all__ = ["to_row"]

_logger = logging.getLogger(__name__)


def to_row(item: InferenceRequest, decode: bool) -> dict[str, object]:
    """The fields of `item` by name; of fields with the same name the last one counts.

    With `decode`, a value of exactly `application/json` is parsed and one of `text…` is decoded as
    UTF-8; what cannot be decoded, and everything else, is a bytearray.
    """
    return {field.name: _value(field, decode) for field in item.fields}


def _value(field: Field, decode: bool) -> JsonValue | bytearray:
    if decode and field.content_type == "application/json":
        try:
            check_depth(field.value)
            parsed: JsonValue = json.loads(field.value)
        except (ValueError, RecursionError):
            _logger.warning(
                "The field %s is not JSON, or nested more than %d levels deep; the handler gets its"
                " bytes.", field.name, MAX_DEPTH,
            )  # fmt: skip
        else:
            return parsed
    elif decode and field.content_type.startswith("text"):
        try:
            return field.value.decode("utf-8")
        except UnicodeDecodeError:
            _logger.warning("The field %s is not UTF-8; the handler gets its bytes.", field.name)
    return bytearray(field.value)
