"""What a handler returned, as bytes (contract.md section 5.4)."""

import io
import math

import pytest
import torch

from flambeau.errors import PredictionError
from flambeau.handlers.results import Body, encode_item, encode_items
from flambeau.handlers.ts.utils.util import PredictionException


@pytest.mark.parametrize(
    ("item", "body", "content_type"),
    [
        (b"\x00\xff", b"\x00\xff", ""),
        (bytearray(b"ab"), b"ab", ""),
        ("Grüße", "Grüße".encode(), ""),
        ({"a": [1, "ü"]}, b'{\n  "a": [\n    1,\n    "\\u00fc"\n  ]\n}', "application/json"),
        (None, b"null", "application/json"),
        ((1, 2), b"[\n  1,\n  2\n]", "application/json"),
        (math.nan, b"null", "application/json"),
        ({"a": [1.5, -math.inf]}, b'{\n  "a": [\n    1.5,\n    null\n  ]\n}', "application/json"),
        (True, b"true", "application/json"),
    ],
)
def test_encoding(item: object, body: bytes, content_type: str) -> None:
    """Bytes raw, text as UTF-8, all else as indented ASCII JSON with its content type."""
    assert encode_item(item) == Body(body, content_type)


def test_tensor_is_saved() -> None:
    """A tensor becomes the bytes of torch.save."""
    encoded = encode_item(torch.tensor([1.5, 2.0]))
    assert isinstance(encoded, Body)
    loaded = torch.load(io.BytesIO(encoded.data), weights_only=True)
    assert loaded.tolist() == [1.5, 2.0]


def test_one_item_that_cannot_be_encoded_fails_alone() -> None:
    """Neighbours of an unsupported item keep their answers."""
    circle: list[object] = []
    circle.append(circle)
    result = encode_items(["good", object(), circle, "\ud800", {1, 2}], 5)
    assert result[0] == Body(b"good")
    for item in result[1:]:
        assert isinstance(item, PredictionError)
        assert str(item) == "Unsupported model output data type."


def test_items_that_are_errors() -> None:
    """A returned PredictionError or PredictionException is that item's error, with its status."""
    own = PredictionError("too long", status=422)
    result = encode_items([own, PredictionException("no such city", 404)], 2)
    assert result[0] is own
    assert isinstance(result[1], PredictionError)
    assert (str(result[1]), result[1].status) == ("no such city", 404)


@pytest.mark.parametrize("result", ["text", {"a": 1}, ("a",), None, torch.ones(1)])
def test_result_that_is_not_a_list(result: object) -> None:
    """Anything but a list fails the batch."""
    with pytest.raises(PredictionError, match=r"^Invalid model predict output$"):
        encode_items(result, 1)


@pytest.mark.parametrize("result", [[], ["a"], ["a", "b", "c"]])
def test_result_of_the_wrong_length(result: list[object]) -> None:
    """A list of another length than the batch fails the batch."""
    with pytest.raises(PredictionError, match=r"^number of batch response mismatched$"):
        encode_items(result, 2)
