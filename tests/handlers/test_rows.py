"""A request's fields as the row that a handler reads (contract.md section 5.3)."""

import pytest

from flambeau.handlers.rows import to_row
from flambeau.types import Field, InferenceRequest


def row(*fields: Field, decode: bool = True) -> dict[str, object]:
    return to_row(InferenceRequest("id", {}, list(fields)), decode)


@pytest.mark.parametrize(
    ("content_type", "value", "expected"),
    [
        ("application/json", b'{"a": [1, null]}', {"a": [1, None]}),
        ("application/json", b'"text"', "text"),
        ("application/json", b"null", None),
        ("application/json", b"NaN1", bytearray(b"NaN1")),
        ("application/json", b"\xff", bytearray(b"\xff")),
        ("application/json", b"[" * 100_000, bytearray(b"[" * 100_000)),
        ("Application/JSON", b"{}", bytearray(b"{}")),
        ("application/json+x", b"{}", bytearray(b"{}")),
        ("text/plain", "Grüße".encode(), "Grüße"),
        ("text/csv", b"a,b", "a,b"),
        ("text/plain", b"\xff", bytearray(b"\xff")),
        ("application/octet-stream", b"a", bytearray(b"a")),
        ("", b"", bytearray()),
    ],
)
def test_value_by_content_type(content_type: str, value: bytes, expected: object) -> None:
    """JSON is parsed, text is decoded, everything else and what is broken stays a bytearray."""
    found = row(Field("body", content_type, value))["body"]
    assert found == expected
    assert type(found) is type(expected)


def test_nothing_is_decoded_when_switched_off() -> None:
    """`decode_input_request=false` hands over bytes only."""
    found = row(Field("a", "application/json", b"{}"), Field("b", "text/plain", b"x"), decode=False)
    assert found == {"a": bytearray(b"{}"), "b": bytearray(b"x")}


def test_fields_by_name() -> None:
    """Each field has its key; of two with the same name the last counts; none make an empty row."""
    assert row() == {}
    fields = [Field("a", "", b"1"), Field("b", "", b"2"), Field("a", "", b"3")]
    assert row(*fields) == {"a": bytearray(b"3"), "b": bytearray(b"2")}
