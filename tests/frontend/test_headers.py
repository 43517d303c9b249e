"""The headers of every response: cache, cross-origin and connection (contract.md sections 3.1, 5.6)."""

import http.client
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flambeau.testing.echo import ECHO, register, write_model
from flambeau.testing.server import RunningServer, running_server

ORIGIN = "https://ui.example"
CORS = {
    "access-control-allow-origin": ORIGIN,
    "access-control-allow-methods": "GET, POST, PUT, OPTIONS",
    "access-control-allow-headers": "Authorization, Content-Type",
}
SETS_ITS_OWN = """
def handle(data, context):
    if data is None:
        return None
    for index in range(len(data)):
        context.set_response_header(index, "Access-Control-Allow-Origin", "*")
    return [b"x"] * len(data)
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that pages of one other origin may use."""
    root = tmp_path_factory.mktemp("cors")
    write_model(root / "store", "echo", ECHO)
    write_model(root / "store", "own", SETS_ITS_OWN)
    config = {key.replace("access-control-allow-", ""): value for key, value in CORS.items()}
    with running_server(
        root / "store",
        root / "cache",
        cors_allowed_origin=config["origin"],
        cors_allowed_methods=config["methods"],
        cors_allowed_headers=config["headers"],
    ) as server:
        for name in ("echo", "own"):
            assert register(server, name).status_code == 200
        yield server


@pytest.mark.parametrize(
    ("port", "method", "path", "status"),
    [
        ("inference", "POST", "/predictions/echo", 200),
        ("inference", "GET", "/ping", 200),
        ("inference", "GET", "/nowhere", 404),
        ("inference", "GET", "/", 405),
        ("management", "GET", "/models", 200),
        ("management", "GET", "/models/nobody", 404),
        ("metrics", "GET", "/metrics", 200),
    ],
)
def test_every_response_has_them(
    shared: RunningServer, port: str, method: str, path: str, status: int
) -> None:
    """Errors included; the request's own origin does not matter, as in TorchServe."""
    answer = httpx.request(method, getattr(shared, port) + path, headers={"origin": "https://else"})
    assert answer.status_code == status
    for name, value in CORS.items():
        assert answer.headers.get_list(name) == [value]
    assert answer.headers["pragma"] == "no-cache"
    assert answer.headers["cache-control"] == "no-cache; no-store, must-revalidate, private"
    assert answer.headers["expires"] == "Thu, 01 Jan 1970 00:00:00 UTC"
    assert len(answer.headers["x-request-id"]) == 36
    assert answer.headers["connection"] == ("keep-alive" if status < 400 else "close")
    assert "content-length" in answer.headers


def test_what_the_parser_refuses_has_them_too(shared: RunningServer) -> None:
    """A 400 that no route has seen."""
    url = httpx.URL(shared.inference)
    with socket.create_connection((url.host, url.port or 0), timeout=60) as sock:
        sock.sendall(b"GET /ping HTTP/1.1\r\nbad header\r\n\r\n")
        received = b"".join(iter(lambda: sock.recv(4096), b""))
    head = received.partition(b"\r\n\r\n")[0].decode()
    assert head.startswith("HTTP/1.1 400 ")
    for line in (f"access-control-allow-origin: {ORIGIN}", "pragma: no-cache", "x-request-id: "):
        assert f"\r\n{line}" in head


def test_without_configuration_there_are_none(echo_server: RunningServer) -> None:
    """No default that opens anything (promises.md R16)."""
    answer = httpx.get(f"{echo_server.inference}/ping", headers={"origin": ORIGIN})
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_handler_s_own_header_stays(shared: RunningServer) -> None:
    """It is not sent twice, which browsers refuse."""
    answer = httpx.get(f"{shared.inference}/predictions/own")
    assert answer.headers.get_list("access-control-allow-origin") == ["*"]
    assert answer.headers["access-control-allow-methods"] == CORS["access-control-allow-methods"]


def test_a_configured_origin_may_manage_models(shared: RunningServer) -> None:
    """Another one may not (promises.md R16)."""
    url = f"{shared.management}/models/echo?min_worker=1"
    assert httpx.put(url, headers={"origin": ORIGIN}).is_success
    assert httpx.put(url, headers={"origin": "https://else"}).status_code == 403


@pytest.mark.parametrize("tokens", [False, True])
def test_preflights_pass(tmp_path: Path, tokens: bool) -> None:
    """A browser's question carries no key; TorchServe refuses it, so pages cannot use tokens."""
    with running_server(
        tmp_path,
        tmp_path / "cache",
        cors_allowed_origin=ORIGIN,
        disable_token_authorization=not tokens,
        key_file=tmp_path / "key_file.json",
    ) as server:
        ask = {"origin": ORIGIN, "access-control-request-method": "POST"}
        for url in (f"{server.management}/models", f"{server.inference}/predictions/nobody"):
            answer = httpx.options(url, headers=ask)
            assert answer.headers["access-control-allow-origin"] == ORIGIN
            if tokens or url.endswith("models"):
                assert (answer.status_code, answer.content) == (200, b"")
            if tokens:
                assert httpx.options(url, headers={"origin": ORIGIN}).status_code == 401
                assert httpx.post(url, headers=ask).status_code == 401


def test_without_cors_a_preflight_needs_a_key(tmp_path: Path) -> None:
    """It is a request like any other then."""
    with running_server(
        tmp_path,
        tmp_path / "cache",
        disable_token_authorization=False,
        key_file=tmp_path / "key_file.json",
    ) as server:
        ask = {"origin": ORIGIN, "access-control-request-method": "POST"}
        assert httpx.options(f"{server.management}/models", headers=ask).status_code == 401


def test_connection_headers_are_obeyed(echo_server: RunningServer) -> None:
    """HTTP/1.1 goes on, `Connection: close` and HTTP/1.0 end it (section 12.1: TorchServe's do not)."""
    url = httpx.URL(echo_server.inference)
    connection = http.client.HTTPConnection(url.host, url.port or 0, timeout=60)
    for _ in range(2):
        connection.request("GET", "/ping")
        answer = connection.getresponse()
        assert answer.headers["connection"] == "keep-alive"
        answer.read()
        assert connection.sock is not None
    connection.request("GET", "/ping", headers={"connection": "close"})
    answer = connection.getresponse()
    assert answer.headers.get_all("connection") == ["close"]
    answer.read()
    connection.close()
    with socket.create_connection((url.host, url.port or 0), timeout=60) as sock:
        sock.sendall(b"GET /ping HTTP/1.0\r\n\r\n")
        received = b"".join(iter(lambda: sock.recv(4096), b""))  # to the end of the stream
    assert received.count(b"connection: close") == 1
    assert received.endswith(b'{\n  "status": "Healthy"\n}\n')


@pytest.mark.parametrize("size", [0, 1_000, 8_000_000])
def test_an_error_s_body_always_arrives(echo_server: RunningServer, size: int) -> None:
    """Also where the client sends a body that nobody reads; TorchServe resets the connection."""
    url = httpx.URL(echo_server.inference)
    for path in ("/predictions/nobody", "/predictions/echo"):
        connection = http.client.HTTPConnection(url.host, url.port or 0, timeout=60)
        connection.request("POST", path, body=b"x" * size)
        answer = connection.getresponse()
        document = answer.read()
        if path.endswith("nobody"):
            assert answer.status == 404
            assert b"ModelNotFoundException" in document
        elif size > 1_000:
            assert answer.status == 413
            assert b"max_request_size" in document
        connection.close()
