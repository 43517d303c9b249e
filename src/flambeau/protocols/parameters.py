"""Parameters of management calls: from the query, or from a JSON body (contract.md section 6.4)."""

import json
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope

from flambeau.errors import ErrorKind, FlambeauError
from flambeau.protocols import limits
from flambeau.protocols.http import header, read_body

Parameters = dict[str, str]


async def register_parameters(scope: Scope, receive: Receive) -> Parameters:
    """Those of a JSON body where there is one, and else of the query."""
    if header(scope, b"content-type").partition(";")[0].strip().lower() == "application/json":
        body = await read_body(scope, receive, limits.MAX_PARAMETERS_BYTES)
        if body:
            return _json_parameters(body)
    return await query_parameters(scope, receive)


async def query_parameters(scope: Scope, _receive: Receive) -> Parameters:
    """Those of the query; of parameters with the same name the first one counts."""
    query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    return dict(reversed(query))


def _json_parameters(body: bytes) -> Parameters:
    try:
        document: object = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise FlambeauError(
            ErrorKind.INVALID_INPUT, 'The body is not a JSON object such as {"url": "model.mar"}.'
        )
    texts = {True: "true", False: "false"}
    return {
        str(key): texts[value] if isinstance(value, bool) else str(value)
        for key, value in document.items()
        if value is not None
    }


def integer(parameters: Parameters, key: str, default: int) -> int:
    """A number of 32 bits; what is none silently becomes the default (section 6.6)."""
    try:
        number = int(parameters[key])
    except (KeyError, ValueError):
        return default
    return number if -(2**31) <= number < 2**31 else default


def natural(parameters: Parameters, key: str) -> int | None:
    """A number that is not negative, else None."""
    value = integer(parameters, key, -1)
    return value if value >= 0 else None


def switch(parameters: Parameters, key: str, *, default: bool) -> bool:
    """A boolean as Java reads it: `true` in any letter case, else false."""
    return parameters[key].lower() == "true" if key in parameters else default
