"""What the bytes and texts of a request stand for: UTF-8, JSON, a Python literal."""

import ast
import json
import re

from flambeau.errors import ErrorKind, PredictionError

MAX_LITERAL_CHARS = 200_000
MAX_LITERAL_BRACKETS = 50
MAX_LITERAL_SIGNS = 50

RowValue = object
"""What a row of a request holds: str, bytes, or whatever JSON gave. Not yet trusted."""


def decode_text(value: bytes) -> str:
    """UTF-8 to text. Raises `PredictionError` that names the place of the first wrong byte."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PredictionError(
            f"Invalid input: the text is not UTF-8 (byte {error.start} is 0x{value[error.start]:02x})."
            " Send it encoded as UTF-8.",
            ErrorKind.INVALID_INPUT,
        ) from None


def require_unicode(text: str) -> None:
    """Raise `PredictionError` for half a surrogate pair, which JSON escapes can smuggle in."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PredictionError(
            f"Invalid input: character {error.start} of the text is half of a surrogate pair."
            " Send a whole one.",
            ErrorKind.INVALID_INPUT,
        ) from None


def is_unicode(value: object) -> bool:
    """Whether all texts in a JSON value are whole; see `require_unicode`."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            waiting += [*each.keys(), *each.values()]
        elif isinstance(each, list | tuple):
            waiting += each
        elif isinstance(each, str) and not each.isascii():
            try:
                each.encode("utf-8")
            except UnicodeEncodeError:
                return False
    return True


def parse_structured_text(text: str) -> RowValue:
    """The object or list that a text stands for, or the text itself.

    JSON is tried first. Then a Python literal such as `{'text': '...'}`, which is what clients of
    TorchServe's Transformers example send; only for an object and only within limits, since
    Python's parser needs far more memory than the text has bytes.
    """
    start = text.lstrip()[:1]
    if start not in ("{", "["):
        return text
    try:
        value: RowValue = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if value is None and start == "{" and _is_small_literal(text):
        try:
            value = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            value = None
    return value if isinstance(value, dict | list) else text


MAX_DEPTH = 64
"""Lists and objects of JSON within each other."""

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_BRACKET = re.compile(rb"[\[{\]}]")


def check_depth(body: bytes | bytearray) -> None:
    """Raise `RecursionError` for what, taken for JSON, has more than `MAX_DEPTH` levels."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for bracket in _BRACKET.finditer(_STRING.sub(b"", body)):
        depth += 1 if bracket.group() in b"[{" else -1
        if depth > MAX_DEPTH:
            raise RecursionError


# The closing quote is optional, so that an unclosed string is consumed once and never rescanned.
_QUOTED = re.compile(r"'(?:\\.|[^'\\])*'?|\"(?:\\.|[^\"\\])*\"?", re.DOTALL)


def _is_small_literal(text: str) -> bool:
    """Whether a literal's structure outside its strings is small enough to parse safely."""
    if len(text) > MAX_LITERAL_CHARS:
        return False
    structure = _QUOTED.sub("", text)
    brackets = sum(map(structure.count, "([{"))
    signs = sum(map(structure.count, "+-~"))
    return brackets <= MAX_LITERAL_BRACKETS and signs <= MAX_LITERAL_SIGNS


def json_type(value: object) -> str:
    """The JSON name of a value's type, with its article."""
    if isinstance(value, bool):
        return "a boolean"
    if value is None:
        return "null"
    names = {int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
