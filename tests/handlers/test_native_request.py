"""What the native handler makes of a row, by the type that the client declared."""

import json
from typing import Any

import pytest

from flambeau.errors import ErrorKind, PredictionError
from flambeau.handlers.native_request import read_row
from flambeau.handlers.rows import to_row
from flambeau.handlers.ts.context import Context, RequestProcessor
from flambeau.protocols.forms import read_fields
from flambeau.types import InferenceRequest

JSON = "application/json"


def read(body: bytes, content_type: str = JSON, *, decode: bool = True) -> Any:
    """The value of a request, by way of the fields and rows that the server makes."""
    fields = read_fields(content_type, body)
    context = Context("m", "", {}, 1, None, "0")
    headers: dict[str, Any] = {field.name: {"content-type": field.content_type} for field in fields}
    headers["Content-Type"] = content_type
    context.request_processor = [RequestProcessor(headers)]
    return read_row(0, to_row(InferenceRequest("id", {}, fields), decode), context)


def error_of(body: bytes, content_type: str = JSON) -> PredictionError:
    with pytest.raises(PredictionError) as caught:
        read(body, content_type)
    assert caught.value.kind is ErrorKind.INVALID_INPUT
    return caught.value


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"text": "a"', "not valid JSON (line 1, column 13): Expecting ',' delimiter"),
        (b'{\n"text": zebra}', "not valid JSON (line 2, column 9): Expecting value"),
        (b'"a movie', "not valid JSON (line 1, column 1): Unterminated string"),
        (b"[" * 200_000, "nested too deeply"),
        (b"[" * 65 + b"]" * 65, "nested too deeply"),
        (b"1" * 5000, "too many digits"),
        (b'{"text": "\xff"}', "byte 10 is 0xff"),
    ],
)
@pytest.mark.parametrize("content_type", [JSON, "Application/JSON; charset=utf-8"])
def test_broken_json_is_refused(body: bytes, content_type: str, reason: str) -> None:
    """What is declared as JSON and is none is an error with its place, never a text."""
    message = error_of(body, content_type).message
    assert reason in message
    assert "zebra" not in message
    assert len(message) < 200


@pytest.mark.parametrize("text", ["a movie", "", "Ada (1815) lived in London"])
def test_a_text_that_does_not_begin_like_json_is_a_text(text: str) -> None:
    """TorchServe's example answered texts under any type, and its clients cannot be rewritten."""
    assert read(text.encode()) == text


def test_broken_json_in_a_part_of_a_form() -> None:
    """A file in a form has a type of its own."""
    part = 'Content-Disposition: form-data; name="data"; filename="x"\r\nContent-Type: '

    def form(kind: str) -> bytes:
        return f'--b\r\n{part}{kind}\r\n\r\n{{"text": \r\n--b--\r\n'.encode()

    assert "not valid JSON" in error_of(form(JSON), "multipart/form-data; boundary=b").message
    assert read(form("text/plain"), "multipart/form-data; boundary=b") == '{"text": '


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/octet-stream"])
def test_other_types_may_hold_any_text(content_type: str) -> None:
    """Only who declares JSON must send it."""
    value = read(b'{"text": "a"', content_type)
    assert (value if isinstance(value, str) else bytes(value).decode()) == '{"text": "a"'


def test_json_that_nobody_parsed_yet() -> None:
    """With `decode_input` off, or a type not in lower case, a row has bytes that are JSON."""
    assert read(b'{"text": "a"}', decode=False) == {"text": "a"}
    assert read(b'"a"', "Application/JSON") == "a"
    assert read(b'{"text": "a", "x": [NaN, -Infinity]}', decode=False)["text"] == "a"


def test_python_literals_pass() -> None:
    """Clients of TorchServe's Transformers example send them, under any type."""
    assert read(b"{'text': 'a'}") == {"text": "a"}


@pytest.mark.parametrize("value", [None, 5, 1.5, True, False, "", "a"])
def test_values_arrive_as_they_are(value: object) -> None:
    """Null, too, so that the task can say what came."""
    assert read(json.dumps(value).encode()) == value
    assert read(json.dumps(value).encode(), decode=False) == value
