"""What handlers return and choose, as clients get it (contract.md sections 5.4, 5.5 and 5.8)."""

import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from flambeau.testing.echo import register, write_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until

ANSWERING = """
import torch
from ts.utils.util import PredictionException

class Odd:
    pass

RESULTS = {
    "bytes": b"\\x00\\xff", "bytearray": bytearray(b"raw"), "str": "plain \\u00e9", "empty": "",
    "dict": {"k": "\\u4e2d"}, "none": None, "true": True, "tuple": (1, 2), "number": 0.5,
    "nan": {"score": float("nan"), "best": float("-inf"), "sound": 1.5}, "odd": Odd(),
    "whole dict": {"a": 1}, "whole str": "x", "whole none": None, "whole tuple": ("x",),
    "whole tensor": torch.zeros(1), "whole long": ["x", "y"], "whole empty": [],
}
ERRORS = {"memory": MemoryError("secret"), "cuda": RuntimeError("a CUDA error: secret"),
          "value": ValueError("secret")}

def handle(data, context):
    if data is None:
        return None
    headers = context.get_all_request_header(0)
    kind = headers.get("x-result", "str")
    if "x-fail" in headers:
        code = headers["x-fail"]
        raise PredictionException("not today", int(code)) if code else PredictionException("plain")
    if kind in ERRORS:
        raise ERRORS[kind]
    if "x-code" in headers:
        context.set_response_status(int(headers["x-code"]), headers.get("x-phrase", ""), 0)
    if "x-type" in headers:
        context.set_response_header(0, "Content-Type", headers["x-type"])
    context.set_response_header(0, "x-number", 7)
    if kind == "tensor":
        return [torch.zeros(2)]
    return RESULTS[kind] if kind.startswith("whole") else [RESULTS[kind]]
"""
SLOW = """
import threading
def handle(data, context):
    if data is not None:
        threading.Event().wait()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    store = tmp_path_factory.mktemp("store")
    write_model(store, "answering", ANSWERING)
    with running_server(store, tmp_path_factory.mktemp("cache")) as running:
        assert register(running, "answering").status_code == 200
        yield running


def ask(server: RunningServer, **headers: str) -> httpx.Response:
    named = {f"x-{name}": value for name, value in headers.items()}
    return httpx.post(f"{server.inference}/predictions/answering", headers=named, timeout=60)


def status_line(server: RunningServer, **headers: str) -> bytes:
    """The first line of a raw response."""
    url = urlsplit(server.inference)
    lines = "".join(f"x-{name}: {value}\r\n" for name, value in headers.items())
    request = f"GET /predictions/answering HTTP/1.1\r\nhost: h\r\n{lines}connection: close\r\n\r\n"
    with socket.create_connection((url.hostname, url.port), timeout=60) as sock:
        sock.sendall(request.encode("latin-1"))
        received = b""
        while part := sock.recv(65536):
            received += part
    return received.partition(b"\r\n")[0]


@pytest.mark.parametrize(
    ("kind", "body", "content_type"),
    [
        ("bytes", b"\x00\xff", None),
        ("bytearray", b"raw", None),
        ("str", "plain é".encode(), None),
        ("empty", b"", None),
        ("dict", b'{\n  "k": "\\u4e2d"\n}', "application/json"),
        ("none", b"null", "application/json"),
        ("true", b"true", "application/json"),
        ("tuple", b"[\n  1,\n  2\n]", "application/json"),
        ("number", b"0.5", "application/json"),
        (
            "nan",
            b'{\n  "score": null,\n  "best": null,\n  "sound": 1.5\n}',
            "application/json",
        ),
    ],
)
def test_results(server: RunningServer, kind: str, body: bytes, content_type: str | None) -> None:
    """Bytes raw, text as UTF-8, the rest as indented JSON that says that it is JSON (12.2.8)."""
    answer = ask(server, result=kind)
    assert (answer.status_code, answer.content) == (200, body)
    assert answer.headers.get("content-type") == content_type
    assert answer.headers["x-number"] == "7"


def test_a_tensor_is_what_torch_save_writes(server: RunningServer) -> None:
    """With no content type."""
    answer = ask(server, result="tensor")
    assert answer.content.startswith(b"PK")
    assert "content-type" not in answer.headers


@pytest.mark.parametrize(
    ("kind", "status", "message"),
    [
        ("odd", 503, "Unsupported model output data type."),
        *[
            (f"whole {each}", 503, "Invalid model predict output")
            for each in ("dict", "str", "none", "tuple", "tensor")
        ],
        ("whole long", 503, "number of batch response mismatched"),
        ("whole empty", 503, "number of batch response mismatched"),
        ("value", 503, "Prediction failed"),
        ("memory", 507, "Out of resources"),
        ("cuda", 507, "Out of resources"),
    ],
)
def test_failures(server: RunningServer, kind: str, status: int, message: str) -> None:
    """TorchServe's statuses and texts; the exception's own text is for the log (R12)."""
    answer = ask(server, result=kind)
    assert answer.status_code == status
    assert answer.json() == {"code": status, "type": "InternalServerException", "message": message}


def test_a_request_s_id_leads_to_its_exception_in_the_log(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    """What the client is not told stands under the `x-request-id` that it got (12.2.2)."""
    request_id = ask(server, result="value").headers["x-request-id"]
    wait_until(lambda: "ValueError: secret" in caplog.text)
    assert f"The handler failed on the requests {request_id}." in caplog.text


@pytest.mark.parametrize(
    ("code", "status", "message"),
    [
        ("400", 400, "not today"),
        ("429", 429, "not today"),
        ("413", 413, "not today"),
        ("202", 202, "not today"),
        ("200", 200, "not today"),
        ("", 500, "plain"),
    ],
)
def test_prediction_exceptions(server: RunningServer, code: str, status: int, message: str) -> None:
    """Their own code and text: 413 stays 413, and 200 keeps its text (12.2.9)."""
    answer = ask(server, fail=code)
    assert answer.status_code == status
    assert answer.json() == {"code": status, "type": "InternalServerException", "message": message}


@pytest.mark.parametrize(
    ("headers", "line"),
    [
        ({}, b"HTTP/1.1 200 OK"),
        ({"code": "404"}, b"HTTP/1.1 404 Not Found"),
        ({"code": "200", "phrase": "Fine By Me"}, b"HTTP/1.1 200 Fine By Me"),
        ({"code": "418", "phrase": "caf\u00e9"}, "HTTP/1.1 418 caf\u00e9".encode("latin-1")),
        ({"code": "204", "phrase": "Nothing"}, b"HTTP/1.1 204 Nothing"),
        ({"code": "999"}, b"HTTP/1.1 999 "),
        ({"code": "299", "phrase": "Odd"}, b"HTTP/1.1 299 Odd"),
    ],
)
def test_status_lines(server: RunningServer, headers: dict[str, str], line: bytes) -> None:
    """The handler's phrase, else the standard one, which TorchServe leaves out (12.2.8)."""
    assert status_line(server, **headers) == line


def test_a_content_type_set_as_a_header(server: RunningServer) -> None:
    """Is the content type, whatever letter case it was set in."""
    answer = ask(server, result="dict", type="text/csv; charset=utf-8")
    assert answer.headers.get_list("content-type") == ["text/csv; charset=utf-8"]


def test_torchserve_s_statuses_can_be_had_back(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """`torchserve_statuses=true`: a time-out is a 500, an answer too large and a 413, too."""
    store = tmp_path_factory.mktemp("store")
    write_model(store, "answering", ANSWERING)
    write_model(store, "slow", SLOW, responseTimeout=1)
    died = {"code": 500, "type": "InternalServerException", "message": "Worker died."}
    with running_server(
        store,
        tmp_path_factory.mktemp("cache"),
        torchserve_statuses=True,
        max_response_size=1,
    ) as server:
        assert register(server, "answering").status_code == 200
        assert register(server, "slow").status_code == 200
        assert ask(server, fail="413").status_code == 507
        assert ask(server, result="bytes").json() == died
        answer = httpx.post(f"{server.inference}/predictions/slow", timeout=60)
        assert json.loads(answer.text) == died
