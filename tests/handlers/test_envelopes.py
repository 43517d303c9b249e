"""Service envelopes around a handler (contract.md section 9.6)."""

import json
from typing import Any

import pytest

from flambeau.errors import PredictionError
from flambeau.types import Chunk

Load = Any  # the fixture of conftest.py

LENGTHS = "def handle(data, context):\n  return [len(item) for item in data or []]"
ECHO = "def handle(data, context):\n  return data and list(data)"


def test_body(load: Load) -> None:
    """The handler gets bare values."""
    assert load(ECHO, service_envelope="body").answer("a", {"b": 1}) == [b"a", b'{\n  "b": 1\n}']


def test_json_joins_the_instances_of_all_requests(load: Load) -> None:
    """One batch over all requests, split again; base64 values become bytes."""
    served = load(LENGTHS, service_envelope="json")
    first = {"instances": ["a", "bb"]}
    second = {"instances": [{"b64": "AAAA"}]}
    as_bytes = served.item(json.dumps(first).encode())
    assert served.answer(first, second, as_bytes) == [
        b'{"predictions": [1, 2]}',
        b'{"predictions": [3]}',
        b'{"predictions": [1, 2]}',
    ]


def test_json_decodes_columns(load: Load) -> None:
    """A base64 value in a column is decoded, other columns stay."""
    source = "def handle(data, context):\n  return data and [repr(row) for row in data]"
    served = load(source, service_envelope="json")
    instance = {"image": {"b64": "aGk="}, "name": {"first": 1}}
    (body,) = served.answer({"instances": [instance]})
    assert json.loads(body)["predictions"] == ["{'image': b'hi', 'name': {'first': 1}}"]


@pytest.mark.parametrize("envelope", ["json", "kserve", "kservev2"])
@pytest.mark.parametrize("body", [{"rows": []}, "not json", [1], b""])
def test_bad_request_fails_alone(load: Load, envelope: str, body: object) -> None:
    """A request in the wrong format gets status 400, its neighbour an answer."""
    served = load(ECHO, service_envelope=envelope)
    inputs = [{"name": "x", "shape": [1], "datatype": "INT64", "data": [1]}]
    good: dict[str, object] = {"instances": [1], "inputs": inputs}
    (bad_outcome,), (good_outcome,) = served.run(body, good)
    assert isinstance(bad_outcome, PredictionError)
    assert bad_outcome.status == 400
    assert isinstance(good_outcome, Chunk)


def test_kserve_answers_every_row(load: Load) -> None:
    """Each request is a batch of its own, with its own context; explanations are called so."""
    served = load(
        """
        def handle(data, context):
            if data is None:
                return
            context.set_response_header(0, "id", context.get_request_id(0))
            return [sum(data)]
        """,
        service_envelope="kserve",
    )
    first = served.item({"instances": [1, 2]})
    second = served.item({"instances": [3]}, {"explain": "True"})
    answers = served.chunks(first, second)
    assert [json.loads(chunk.body) for chunk in answers] == [
        {"predictions": [3]},
        {"explanations": [3]},
    ]
    assert [chunk.headers["id"] for chunk in answers] == [first.id, second.id]


def test_kservev2(load: Load) -> None:
    """Inputs come in their shape; each output bears its input's name, its type and flat data."""
    served = load(
        """
        def handle(data, context):
            return data and [item["data"] for item in data]
        """,
        service_envelope="kservev2",
    )
    matrix = {"name": "m", "shape": [2, 2], "datatype": "FP32", "data": [1.5, 2.0, 3.0, 4.0]}
    text = {"name": "t", "shape": [1], "datatype": "BYTES", "data": ["hello"]}
    first = served.item({"id": "mine", "inputs": [matrix, text]})
    second = served.item({"inputs": [{**matrix, "datatype": "INT64", "data": [1, 2, 3, 4]}]})
    answers = [json.loads(body) for body in served.answer(first, second)]
    assert answers[0] == {
        "id": "mine",
        "model_name": "tiny",
        "model_version": "1.0",
        "outputs": [
            {"name": "m", "datatype": "FP64", "data": [1.5, 2.0, 3.0, 4.0], "shape": [4]},
            {"name": "t", "datatype": "BYTES", "data": ["hello"], "shape": [1]},
        ],
    }
    assert answers[1]["id"] == second.id
    assert answers[1]["outputs"][0]["datatype"] == "INT64"


def test_kservev2_shape_that_does_not_fit(load: Load) -> None:
    """An input whose data does not fill its shape is the client's error."""
    served = load(ECHO, service_envelope="kservev2")
    wrong = {"name": "m", "shape": [3], "datatype": "INT64", "data": [1, 2]}
    (error,) = served.errors({"inputs": [wrong]})
    assert error.status == 400
    assert "fit together" in error.message


def test_stream_through_an_envelope(load: Load) -> None:
    """Chunks that a handler sends for one row reach that row's client."""
    served = load(
        """
        from ts.handler_utils.utils import send_intermediate_predict_response
        def handle(data, context):
            if data is None:
                return
            send_intermediate_predict_response(data, context.request_ids, "", 200, context)
            return ["end"]
        """,
        service_envelope="kserve",
    )
    first, second = served.run({"instances": ["a"]}, {"instances": ["b"]})
    assert [getattr(outcome, "body", None) for outcome in first] == [
        b"a",
        b'{\n  "predictions": [\n    "end"\n  ]\n}',
    ]
    assert getattr(second[0], "body", None) == b"b"
