"""Body forms to fields, beyond what one request through a server shows."""

import asyncio

import pytest

from flambeau.errors import FlambeauError
from flambeau.protocols.forms import read_fields, split_body
from flambeau.protocols.limits import MAX_PARTS
from flambeau.types import Field

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=B"


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"a=1&b=2", {"a": b"1", "b": b"2"}),
        (b"a=1&a=2", {"a": b"2"}),
        (b"a=x+y%20z%2B", {"a": b"x y z+"}),
        (b"text=%C3%A9&t%C3%A9=1", {"text": "é".encode(), "té": b"1"}),
        ("text=é".encode(), {"text": "é".encode()}),
        (b"a=%ff\xfe", {"a": b"\xff\xfe"}),
        (b"a=%zz%4", {"a": b"%zz%4"}),
        (b"a=b=c", {"a": b"b=c"}),
        (b"a=&b", {"a": b""}),
        (b"a&b=", {"a": b"", "b": b""}),
        (b'{"x": 1}', {}),
        (b"&&", {}),
        (b"", {}),
    ],
)
def test_urlencoded(body: bytes, fields: dict[str, bytes]) -> None:
    """Any bytes, the last of a name, never an error (section 5.3)."""
    assert read_fields(FORM + "; charset=utf-8", body) == [
        Field(name, "", value) for name, value in fields.items()
    ]


def part(name: str, value: bytes, extra: str = "", kind: str = "") -> bytes:
    head = f'--B\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n'
    if kind:
        head += f"Content-Type: {kind}\r\n"
    return head.encode() + b"\r\n" + value + b"\r\n"


FILE = '; filename="f.txt"'


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (part("a", b"1") + b"--B--\r\n", [Field("a", "", b"1")]),
        (part("a", b"1", kind="text/plain") + b"--B--\r\n", [Field("a", "", b"1")]),
        (part("a", b"1", FILE) + b"--B--", [Field("a", "application/octet-stream", b"1")]),
        (
            part("a", b"{}", FILE, "application/json; charset=utf-8") + b"--B--",
            [Field("a", "application/json", b"{}")],
        ),
        (part("a", b"1") + part("a", b"2") + b"--B--", [Field("a", "", b"2")]),
        (
            part("é", b"\x00\xff\r\n--", FILE) + b"--B--",
            [Field("é", "application/octet-stream", b"\x00\xff\r\n--")],
        ),
        (part("a", b"") + b"--B--", [Field("a", "", b"")]),
        (b"--B\r\n\r\nno name\r\n--B--", []),
        (b"garbage", []),
        (b"", []),
        (part("a", b"cut off")[:-5], []),
    ],
)
def test_multipart(body: bytes, fields: list[Field]) -> None:
    """File parts keep their type, plain fields are bytes, garbage is an empty row."""
    assert read_fields('multipart/form-data; boundary="B"', body) == fields


@pytest.mark.parametrize("content_type", ["multipart/form-data", "text/plain", "", ";;;", "a/b; c"])
def test_everything_else_is_one_raw_field(content_type: str) -> None:
    """Multipart without a boundary included."""
    media_type = content_type.partition(";")[0]
    assert read_fields(content_type, b"x&y=1") == [Field("body", media_type, b"x&y=1")]


@pytest.mark.parametrize("count", [MAX_PARTS, MAX_PARTS + 1])
def test_the_number_of_fields_has_a_limit(count: int) -> None:
    """At the limit a form passes, above it is refused (promises.md G19)."""
    form = b"&".join(b"n%d=" % number for number in range(count))
    multipart = b"".join(part(f"n{number}", b"") for number in range(count)) + b"--B--"
    for content_type, body in ((FORM, form), ("multipart/form-data; boundary=B", multipart)):
        if count > MAX_PARTS:
            with pytest.raises(FlambeauError, match=str(MAX_PARTS)):
                read_fields(content_type, body)
        else:
            assert len(read_fields(content_type, body)) == count


@pytest.mark.parametrize(
    ("content_type", "body", "field"),
    [
        (FORM, b"a=" + b"%41" * 70_000, Field("a", "", b"A" * 70_000)),
        (MULTIPART, part("a", b"x" * 70_000) + b"--B--", Field("a", "", b"x" * 70_000)),
        ("text/plain", b"x" * 70_000, Field("body", "text/plain", b"x" * 70_000)),
    ],
)
def test_large_bodies(content_type: str, body: bytes, field: Field) -> None:
    """A large form is split beside the event loop, with the same result."""
    assert asyncio.run(split_body(content_type, body)) == [field]


@pytest.mark.parametrize("shift", range(4))
def test_escapes_are_decoded_where_slices_meet(shift: int) -> None:
    """Large values are decoded a slice at a time; what is no escape stays."""
    value = b"x" * shift + b"%41" * 20_000 + b"%4" + b"%" * 20_000 + b"%zz+"
    expected = b"x" * shift + b"A" * 20_000 + b"%4" + b"%" * 20_000 + b"%zz "
    assert read_fields("application/x-www-form-urlencoded", b"a=" + value)[0].value == expected
