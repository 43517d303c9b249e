"""The inference API through a real server: bodies, routes, answers, errors (contract.md section 5)."""

import http.client
import json
import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from flambeau.testing.echo import Gate, predict, register, waiting, worker_pids, write_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until

JSON = "application/json"


def row(answer: httpx.Response) -> dict[str, list[object]]:
    assert answer.status_code == 200, answer.text
    found: dict[str, list[object]] = answer.json()["row"]
    return found


def raw_exchange(server: RunningServer, request: bytes) -> bytes:
    """Send bytes, and read until the server closes."""
    url = urlsplit(server.inference)
    with socket.create_connection((url.hostname, url.port), timeout=60) as sock:
        sock.sendall(request)
        received = b""
        while data := sock.recv(65536):
            received += data
        return received


@pytest.mark.parametrize(
    ("content_type", "body", "seen"),
    [
        ("application/octet-stream", b"\x00\xff", ["bytearray", "\x00\xff"]),
        ("text/plain", "é".encode(), ["str", "é"]),
        ("text/csv; charset=latin-1", b"a,b", ["str", "a,b"]),
        ("text/plain", b"\xff", ["bytearray", "\xff"]),
        (JSON, b'{"a": [1, null]}', ["dict", {"a": [1, None]}]),
        (f"{JSON}; charset=utf-8", b"3", ["int", 3]),
        (JSON, b"{bad", ["bytearray", "{bad"]),
        ("Application/JSON", b"{}", ["bytearray", "{}"]),
        (JSON, b"[" * 5000, ["bytearray", "[" * 5000]),
        ("multipart/form-data", b"--x", ["bytearray", "--x"]),
        ("text/plain", b"", ["str", ""]),
    ],
)
def test_raw_bodies(
    echo_server: RunningServer, content_type: str, body: bytes, seen: list[object]
) -> None:
    """One field called `body`, its value by the content type (section 5.3)."""
    answer = predict(echo_server, "echo", body, content_type=content_type)
    assert row(answer) == {"body": seen}


def test_an_empty_body_without_a_type_is_empty_bytes(echo_server: RunningServer) -> None:
    """`{"body": bytearray(b"")}`."""
    assert row(predict(echo_server, "echo")) == {"body": ["bytearray", ""]}


def test_forms(echo_server: RunningServer) -> None:
    """Urlencoded and multipart bodies become named fields."""
    url = f"{echo_server.inference}/predictions/echo"
    assert row(httpx.post(url, data={"text": "é", "n": "1"})) == {
        "text": ["bytearray", "é".encode().decode("latin-1")],
        "n": ["bytearray", "1"],
    }
    files = {"data": ("a.txt", b"hello", "text/plain"), "j": ("j", b"[1]", JSON)}
    assert row(httpx.post(url, files=files, data={"plain": "x"})) == {
        "data": ["str", "hello"],
        "j": ["list", [1]],
        "plain": ["bytearray", "x"],
    }
    boundary = {"content-type": "multipart/form-data; boundary=B"}
    assert row(httpx.post(url, content=b"garbage", headers=boundary)) == {}


def test_a_chunked_body_is_read_whole(echo_server: RunningServer) -> None:
    """`Transfer-Encoding: chunked`, in many pieces."""
    url = f"{echo_server.inference}/predictions/echo"
    answer = httpx.post(url, content=iter([b"ab", b"", b"cd"] * 100))
    assert row(answer) == {"body": ["bytearray", "abcd" * 100]}


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "POST", "BREW", "get"])
def test_every_method_predicts(echo_server: RunningServer, method: str) -> None:
    """As in TorchServe (section 5.1)."""
    assert httpx.request(method, f"{echo_server.inference}/predictions/echo").status_code == 200


def test_head_predicts_and_has_no_body(echo_server: RunningServer) -> None:
    """The length is told, the connection stays in step."""
    with httpx.Client() as client:
        head = client.head(f"{echo_server.inference}/predictions/echo")
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["content-length"]) > 0
        assert client.get(f"{echo_server.inference}/ping").json() == {"status": "Healthy"}


@pytest.mark.parametrize(
    ("path", "url_path", "explain"),
    [
        ("predictions/echo", "", "False"),
        ("predictions/echo/", "", "False"),
        ("//predictions//echo//", "", "False"),
        ("predictions/echo/1.0", "", "False"),
        ("predictions/ech%6F/1%2E0/", "", "False"),
        ("predictions/echo/1.0/v1/chat/completions", "v1/chat/completions", "False"),
        ("explanations/echo", "", "True"),
        ("explanations/echo/1.0/a", "a", "True"),
        ("predictions/echo?x=1", "", "False"),
    ],
)
def test_paths_and_what_the_handler_hears_of_them(
    echo_server: RunningServer, path: str, url_path: str, explain: str
) -> None:
    """Version, rest of the path, explain; a client cannot set the server's own keys (5.2)."""
    forged = {"explain": "forged", "describe": "True", "url_path": "forged"}
    answer = httpx.post(f"{echo_server.inference}/{path}", headers={"x-do": "see", **forged})
    headers = answer.json()["headers"]
    assert (headers["url_path"], headers["explain"]) == (url_path, explain)
    assert "describe" not in headers


def test_credentials_are_not_handed_to_handlers(echo_server: RunningServer) -> None:
    """Ordinary headers are; a client's request id is one of them, not the id (promises.md G25).

    `Authorization` is for handlers where the server has no use for it: see `frontend/test_gate.py`.
    """
    secret = {"Cookie": "s", "Proxy-Authorization": "s"}
    sent = secret | {"X-Request-Id": "mine", "X-Own": "yes"}
    answer = httpx.post(
        f"{echo_server.inference}/predictions/echo", headers={"x-do": "see", **sent}
    )
    seen = answer.json()
    assert not {name.lower() for name in secret} & {name.lower() for name in seen["headers"]}
    assert seen["headers"]["X-Own"] == "yes"
    assert seen["headers"]["X-Request-Id"] == "mine"
    assert seen["id"] == answer.headers["x-request-id"] != "mine"


@pytest.mark.parametrize(
    ("method", "path", "status", "kind", "message"),
    [
        ("POST", "predictions/nobody", 404, "ModelNotFoundException", "Model not found: nobody"),
        ("POST", "predictions/Echo", 404, "ModelNotFoundException", "Model not found: Echo"),
        (
            "POST", "predictions/echo/9", 404, "ModelVersionNotFoundException",
            "Model version: 9 does not exist for model: echo",
        ),
        (
            "GET", "predictions", 404, "ResourceNotFoundException",
            "Requested resource is not found, please refer to API document.",
        ),
        (
            "GET", "nowhere/%ff", 404, "ResourceNotFoundException",
            "Requested resource is not found, please refer to API document.",
        ),
        (
            "GET", "nowhere/%zz", 403, "IllegalArgumentException",
            "invalid hex byte 'zz' at index 10 of '/nowhere/%zz'",
        ),
        (
            "GET", "predictions/echo%2", 403, "IllegalArgumentException",
            "invalid hex byte '2' at index 18 of '/predictions/echo%2'",
        ),
        (
            "GET", "", 405, "MethodNotAllowedException",
            "Requested method is not allowed, please refer to API document.",
        ),
    ],
)  # fmt: skip
def test_errors_have_torchserve_s_shape(
    echo_server: RunningServer, method: str, path: str, status: int, kind: str, message: str
) -> None:
    """Code, type and message, indented by two, newline at the end (section 5.8)."""
    answer = httpx.request(method, f"{echo_server.inference}/{path}")
    assert answer.status_code == status
    assert answer.headers["content-type"] == JSON
    document = {"code": status, "type": kind, "message": message}
    assert answer.text == json.dumps(document, indent=2) + "\n"


@pytest.mark.parametrize("path", ["ping", "predictions/echo", "predictions/nobody", "metrics"])
def test_every_response_carries_the_common_headers(echo_server: RunningServer, path: str) -> None:
    """Request id and cache headers, on errors too (section 5.6)."""
    headers = httpx.get(f"{echo_server.inference}/{path}").headers
    assert len(headers["x-request-id"]) == 36
    assert headers["pragma"] == "no-cache"
    assert headers["cache-control"] == "no-cache; no-store, must-revalidate, private"
    assert headers["expires"] == "Thu, 01 Jan 1970 00:00:00 UTC"
    assert "content-length" in headers
    assert "server" not in headers


def test_ping(echo_server: RunningServer) -> None:
    """Any method, anything below it (section 5.9)."""
    for path in ("ping", "ping/anything/"):
        answer = httpx.post(f"{echo_server.inference}/{path}")
        assert (answer.status_code, answer.text) == (200, '{\n  "status": "Healthy"\n}\n')


def test_a_body_at_the_limit_passes_and_above_it_does_not(echo_server: RunningServer) -> None:
    """By its announced length and, chunked, by what comes; the limit's key is named."""
    assert predict(echo_server, "echo", b"x" * 100_000).status_code == 200
    url = f"{echo_server.inference}/predictions/echo"
    for content in (b"x" * 100_001, iter([b"x" * 50_000] * 3)):
        answer = httpx.post(url, content=content)
        assert answer.status_code == 413
        assert "max_request_size" in answer.json()["message"]


@pytest.mark.parametrize(("length", "first"), [(10, b"100"), (100_001, b"413")])
def test_expect_100_continue(echo_server: RunningServer, length: int, first: bytes) -> None:
    """A body that is too large is refused before it is sent."""
    url = urlsplit(echo_server.inference)
    with socket.create_connection((url.hostname, url.port), timeout=60) as sock:
        sock.sendall(
            b"POST /predictions/echo HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\n"
            b"content-length: %d\r\n\r\n" % length
        )
        assert sock.recv(65536).split(b" ")[1] == first
        if first == b"100":
            sock.sendall(b"x" * length)
            assert sock.recv(65536).split(b" ")[1] == b"200"


def test_unknown_models_are_refused_before_the_body_is_read(echo_server: RunningServer) -> None:
    """Nobody sends a gigabyte to learn of a typing error."""
    answer = raw_exchange(
        echo_server,
        b"POST /predictions/nobody HTTP/1.1\r\nhost: h\r\nconnection: close\r\n"
        b"content-length: 1000\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize(
    ("sent", "status", "message"),
    [
        ({"x_do": "raise"}, 503, "Prediction failed"),
        ({"x_do": "fail", "x_code": "418"}, 418, "not today"),
        ({"x_do": "fail", "x_code": "599"}, 599, "not today"),
    ],
)
def test_handler_errors(
    echo_server: RunningServer, sent: dict[str, str], status: int, message: str
) -> None:
    """A handler's own status and text pass; an exception's text stays in the log (R12)."""
    answer = predict(echo_server, "echo", **sent)
    assert answer.status_code == status
    assert answer.json() == {"code": status, "type": "InternalServerException", "message": message}
    assert "secret" not in answer.text


@pytest.mark.parametrize("status", [200, 201, 302, 404, 500, 599, 999])
def test_a_handler_chooses_its_status(echo_server: RunningServer, status: int) -> None:
    """With its body unchanged (section 5.5)."""
    answer = predict(echo_server, "echo", b"hi", x_status=str(status))
    assert answer.status_code == status
    assert answer.json()["row"] == {"body": ["bytearray", "hi"]}


@pytest.mark.parametrize("status", ["204", "304"])
def test_statuses_without_a_body_keep_the_connection_in_step(
    echo_server: RunningServer, status: str
) -> None:
    """A body that a handler returned with them would be read as the next response."""
    url = urlsplit(echo_server.inference)
    connection = http.client.HTTPConnection(str(url.hostname), url.port, timeout=60)
    for _ in range(3):
        connection.request("POST", "/predictions/echo", headers={"x-status": status})
        answer = connection.getresponse()
        assert (str(answer.status), answer.read()) == (status, b"")
    connection.close()


@pytest.mark.parametrize("status", ["100", "20", "0", "-1"])
def test_a_status_that_ends_no_exchange_is_the_handler_s_error(
    echo_server: RunningServer, status: str
) -> None:
    """An answer comes all the same, and the worker lives."""
    pid = worker_pids(echo_server, "echo")
    assert predict(echo_server, "echo", x_status=status).status_code in (200, 500, 503)
    assert worker_pids(echo_server, "echo") == pid


def test_handlers_set_headers_but_not_the_connection_s(echo_server: RunningServer) -> None:
    """Own headers and the content type pass; line breaks forge nothing; framing stays ours."""
    with httpx.Client() as client:
        for _ in range(2):
            answer = client.post(
                f"{echo_server.inference}/predictions/echo", headers={"x-do": "headers"}
            )
            assert answer.headers["x-own"] == "yes"
            assert answer.headers["content-type"] == "text/x-own"
            assert answer.headers["x-forge"] == "a  x-forged: b"
            assert "x-forged" not in answer.headers
            assert "transfer-encoding" not in answer.headers
            assert len(answer.content) == int(answer.headers["content-length"]) > 1


def test_a_stream_comes_in_parts(echo_server: RunningServer) -> None:
    """Chunks as the handler sends them, the returned value last (section 5.7)."""
    url = f"{echo_server.inference}/predictions/echo"
    with httpx.stream("POST", url, content=b"x", headers={"x-do": "stream"}) as answer:
        assert answer.headers["transfer-encoding"] == "chunked"
        text = "".join(answer.iter_text())
    assert text.startswith("part 0 part 1 part 2 {")
    assert json.loads(text[text.index("{") :])["batch"] == 1


def test_an_error_after_the_first_part_breaks_the_stream(echo_server: RunningServer) -> None:
    """No end marker: the client cannot take the parts for the whole."""
    with pytest.raises(httpx.RemoteProtocolError):
        predict(echo_server, "echo", x_do="stream-raise")
    assert predict(echo_server, "echo").status_code == 200


def test_a_client_that_leaves_removes_its_waiting_request(
    echo_server: RunningServer, gate: Gate
) -> None:
    """Queued work of clients that are gone is dropped at once and never computed (G7)."""
    url = urlsplit(echo_server.inference)

    def send(headers: dict[str, str]) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(str(url.hostname), url.port, timeout=60)
        connection.request("POST", "/predictions/echo", b"x", headers)
        return connection

    running = send({"x-do": "gate", "x-file": str(gate.file)})
    gate.wait_entered()
    marker = gate.file.with_name("computed")
    leavers = [send({"x-do": "gate", "x-file": str(marker)}) for _ in range(3)]
    wait_until(lambda: waiting(echo_server, "echo") == 3)
    for connection in leavers:
        connection.close()
    wait_until(lambda: waiting(echo_server, "echo") == 0)
    gate.open()
    assert running.getresponse().status == 200
    running.close()
    assert predict(echo_server, "echo").status_code == 200
    assert not list(marker.parent.glob("computed*"))


def test_a_content_encoding_is_not_decoded(echo_server: RunningServer) -> None:
    """The handler gets the bytes as they came (section 5.3)."""
    answer = predict(echo_server, "echo", b"\x1f\x8b", content_encoding="gzip")
    assert row(answer) == {"body": ["bytearray", "\x1f\x8b"]}


def test_decoding_can_be_switched_off(tmp_path: Path) -> None:
    """`decode_input_request=false`: always bytes, whatever the content type."""
    write_model(tmp_path / "store", "echo")
    with running_server(
        tmp_path / "store", tmp_path / "cache", decode_input_request=False
    ) as server:
        register(server, "echo")
        assert row(predict(server, "echo", b"{}", content_type=JSON)) == {
            "body": ["bytearray", "{}"]
        }


def test_an_answer_at_the_limit_arrives_whole_and_above_it_is_an_error(
    echo_server: RunningServer,
) -> None:
    """Far more than any buffer on the way; the limit's key is named, and the worker lives (12.1.4)."""
    pids = worker_pids(echo_server, "echo")
    answer = predict(echo_server, "echo", x_do="bytes", x_size="6553500")
    assert answer.content == b"x" * 6_553_500
    assert "content-type" not in answer.headers
    refused = predict(echo_server, "echo", x_do="bytes", x_size="6553501")
    assert refused.json() == {
        "code": 500,
        "type": "InternalServerException",
        "message": "The answer has 6553501 bytes, which is more than max_response_size=6553500"
        " in config.properties.",
    }
    assert worker_pids(echo_server, "echo") == pids


def test_a_client_that_leaves_within_a_stream_frees_the_worker(
    echo_server: RunningServer,
) -> None:
    """And harms nobody."""
    url = f"{echo_server.inference}/predictions/echo"
    pids = worker_pids(echo_server, "echo")
    for _ in range(3):
        with httpx.stream("POST", url, headers={"x-do": "stream"}) as answer:
            next(answer.iter_raw())
    assert predict(echo_server, "echo").status_code == 200
    assert worker_pids(echo_server, "echo") == pids
