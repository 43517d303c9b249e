"""How clients of the Hugging Face Inference API and of other servers ask what becomes of long texts."""

from typing import Any, Literal

from flambeau.tasks.base.parameters import BaseParameters
from flambeau.tasks.base.records import Truncation, WindowRule

BESIDE_NAMES = frozenset({"details", "truncate", "truncation", "truncation_direction"})
"""What such clients put beside a text and not below `parameters`, of what all tasks have."""


class LengthParameters(BaseParameters, frozen=True, kw_only=True):
    """`truncation_direction`: the end of a text that is too long that is cut off."""

    truncation_direction: Literal["left", "right"] | None = None


def translate_length(given: dict[str, Any]) -> dict[str, Any]:
    """`truncate` true or false as `truncation` cut or refuse; `Left` and `Right` in any case."""
    given = dict(given)
    truncate = given.get("truncate")
    if truncate is None or isinstance(truncate, bool):
        given.pop("truncate", None)
        if given.get("truncation") is None:
            given["truncation"] = truncate
    direction = given.get("truncation_direction")
    if isinstance(direction, str):
        given["truncation_direction"] = direction.lower()
    return given


def length_rule(parameters: LengthParameters, default: Truncation) -> WindowRule:
    """How rows that are too long are brought to size."""
    return WindowRule(parameters.truncation or default, side=parameters.truncation_direction)
