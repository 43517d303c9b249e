"""What reaches the HTTP parser from hostile or broken clients (promises.md G19, G20)."""

import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from flambeau.protocols import limits
from flambeau.protocols.limits import MAX_HEAD_BYTES
from flambeau.testing.echo import Gate, predict, register, write_model
from flambeau.testing.server import RunningServer, running_server


def exchange(server: RunningServer, data: bytes) -> bytes:
    """Send bytes; read until the server closes the connection."""
    url = urlsplit(server.inference)
    with socket.create_connection((url.hostname, url.port), timeout=60) as sock:
        received = b""
        try:
            sock.sendall(data)
            while part := sock.recv(65536):
                received += part
        except ConnectionError:
            pass  # closed while we still sent
        return received


GET = b"GET /ping HTTP/1.1\r\nhost: h\r\n"
LAST = b"connection: close\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /ping HTTP/9.9\r\n\r\n",
        b"MADEUP ping HTTP/1.1\r\n\r\n",
        b"GET /p\xc3\xa9 HTTP/1.1\r\n\r\n",
        b"CONNECT h:80 HTTP/1.1\r\nhost: h\r\n\r\n",
        GET + b"bad header\r\n\r\n",
        GET + b"content-length: x\r\n\r\n",
        GET + b"content-length: -1\r\n\r\n",
        GET + b"content-length: 1\r\ncontent-length: 2\r\n\r\n",
        GET + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
        GET + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_malformed_requests_get_a_json_400_and_a_closed_connection(
    echo_server: RunningServer, data: bytes
) -> None:
    """Never a 5xx, a hang or a crash."""
    received = exchange(echo_server, data)
    if b"zz" in data:  # the head was fine: /ping may have answered before the body broke
        received = received[received.rindex(b"HTTP/1.1 ") :]
    assert received.startswith(b"HTTP/1.1 400 "), received
    assert b'"Invalid HTTP message."' in received
    assert predict(echo_server, "echo").status_code == 200


@pytest.mark.parametrize("size", [8 * 1024, MAX_HEAD_BYTES - 200])
def test_large_heads_within_the_limit_pass(echo_server: RunningServer, size: int) -> None:
    """One long header, or many."""
    one = b"x: " + b"y" * size + b"\r\n"
    many = b"".join(b"x%d: %s\r\n" % (number, b"y" * 90) for number in range(size // 100))
    for headers in (one, many):
        assert exchange(echo_server, GET + headers + LAST).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\nhost: h\r\n\r\n",
        GET + b"x: " + b"y" * MAX_HEAD_BYTES + b"\r\n\r\n",
        GET + b"".join(b"x%d: y\r\n" % number for number in range(10_000)) + b"\r\n",
        GET + b"x: " + b"y" * 3_000_000,
        b"G" * 3_000_000,
    ],
    ids=["line", "header", "headers", "endless header", "endless method"],
)
def test_heads_above_the_limit_are_refused(echo_server: RunningServer, data: bytes) -> None:
    """431 (or 400 where it is not even HTTP) and the end, however slowly it would go on."""
    received = exchange(echo_server, data)
    assert not received or received.split(b" ")[1] in (b"431", b"400")
    assert predict(echo_server, "echo").status_code == 200


def test_a_large_body_is_not_taken_for_a_head(echo_server: RunningServer) -> None:
    """On one connection, heads and bodies of several requests are counted apart."""
    request = b"POST /predictions/echo HTTP/1.1\r\nhost: h\r\ncontent-length: 90000\r\n"
    body = b"x" * 90_000
    received = exchange(
        echo_server, (request + b"\r\n" + body) * 3 + request + b"connection: close\r\n\r\n" + body
    )
    assert received.count(b"HTTP/1.1 200 ") == 4


def test_pipelined_requests_are_answered_in_order(echo_server: RunningServer) -> None:
    """Each with its own status."""
    received = exchange(echo_server, GET + b"\r\n" + b"GET /no HTTP/1.1\r\n\r\n" + GET + LAST)
    statuses = [part.split(b" ")[0] for part in received.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"404", b"200"]


def test_an_upgrade_is_not_followed(echo_server: RunningServer) -> None:
    """A WebSocket handshake is an ordinary request here."""
    headers = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\r\n"
    url = urlsplit(echo_server.inference)
    with socket.create_connection((url.hostname, url.port), timeout=60) as sock:
        sock.sendall(GET + headers)
        assert sock.recv(1000).startswith(b"HTTP/1.1 200 ")


UPGRADE = (
    b"POST /predictions/echo HTTP/1.1\r\nhost: h\r\ncontent-type: text/plain\r\n"
    b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"
)


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize(
    "framed",
    [
        b"content-length: 5\r\n\r\nhello",
        b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        b"content-length: 0\r\n\r\n",
    ],
)
def test_a_request_that_offers_an_upgrade_keeps_its_body(
    echo_server: RunningServer, framed: bytes, size: int
) -> None:
    """Java's client offers HTTP/2 with each first request; whatever the packets and what follows."""
    url = urlsplit(echo_server.inference)
    sent = (UPGRADE + framed) * 2 + GET + LAST
    with socket.create_connection((url.hostname, url.port), timeout=60) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(sent), size):
            sock.sendall(sent[at : at + size])
        received = b"".join(iter(lambda: sock.recv(65536), b""))
    assert received.count(b"HTTP/1.1 200 ") == 3
    assert received.count(b"hello") == 2 * (b"llo" in framed)


def test_a_body_without_an_end_is_refused_beside_an_upgrade_too(
    echo_server: RunningServer,
) -> None:
    """Nobody can know where the next request begins."""
    received = exchange(echo_server, UPGRADE + b"transfer-encoding: gzip\r\n\r\nhello")
    assert b"HTTP/1.1 400 " in received
    assert b"HTTP/1.1 200 " not in received


POST = b"POST /predictions/echo HTTP/1.1\r\nhost: h\r\ncontent-length: 10\r\n"


@pytest.mark.parametrize("begin", [b"GET", GET, GET + b"\r\n" + GET, b"\r\n"])
def test_a_head_must_be_complete_in_time(
    echo_server: RunningServer, monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    """408 in JSON and the end of the connection; a request before it is answered."""
    monkeypatch.setattr(limits, "HEAD_SECONDS", 0.3)
    received = exchange(echo_server, begin)
    assert received.count(b"HTTP/1.1 200 ") == begin.count(b"\r\n\r\n")
    refused = received[received.rindex(b"HTTP/1.1 ") :]
    assert refused.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in refused
    assert b'"RequestTimeoutException"' in refused


def test_a_head_that_trickles_is_cut_off(
    echo_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slowloris: a byte now and then does not win time."""
    monkeypatch.setattr(limits, "HEAD_SECONDS", 0.3)
    url = urlsplit(echo_server.inference)
    with socket.create_connection((url.hostname, url.port), timeout=0.05) as sock:
        received = b""
        started = time.monotonic()
        sock.sendall(GET)
        while not received and time.monotonic() < started + 60:
            try:
                received = sock.recv(1000)
            except TimeoutError:
                sock.sendall(b"x")
    assert received.startswith(b"HTTP/1.1 408 ")


def test_a_connection_without_a_byte_is_closed(
    echo_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silently: a browser may have opened it ahead of need."""
    monkeypatch.setattr(limits, "HEAD_SECONDS", 0.3)
    assert exchange(echo_server, b"") == b""


def test_an_idle_connection_is_closed(
    echo_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silently, a minute after its last answer."""
    monkeypatch.setattr(limits, "IDLE_SECONDS", 0.3)
    received = exchange(echo_server, GET + b"\r\n" + GET + b"\r\n")
    assert received.count(b"HTTP/1.1 200 ") == 2
    assert b"connection: close" not in received


@pytest.mark.parametrize("sent", [b"", b"12345"])
def test_a_body_that_stalls_is_a_408(
    echo_server: RunningServer, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """With what every answer carries, and the end of the connection."""
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.3)
    received = exchange(echo_server, POST + b"\r\n" + sent)
    assert received.startswith(b"HTTP/1.1 408 ")
    for part in (b"connection: close", b"x-request-id: ", b'"RequestTimeoutException"'):
        assert part in received


def test_a_slow_body_that_moves_is_read_and_a_slow_answer_is_awaited(
    echo_server: RunningServer, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    """The limits are on silence, and on the client's silence only."""
    monkeypatch.setattr(limits, "BODY_SECONDS", 1.5)
    monkeypatch.setattr(limits, "HEAD_SECONDS", 0.8)
    url = urlsplit(echo_server.inference)
    head = (
        POST.replace(b"10", b"4000")
        + b"x-do: gate\r\nx-file: "
        + str(gate.file).encode()
        + b"\r\n\r\n"
    )
    with socket.create_connection((url.hostname, url.port), timeout=0.2) as sock:
        sock.sendall(head)
        for _ in range(10):
            sock.sendall(b"x" * 400)
            with pytest.raises(TimeoutError):
                sock.recv(1)
        gate.wait_entered()
        sock.sendall(GET)  # the next request's head waits for the answer to this one
        for _ in range(5):
            with pytest.raises(TimeoutError):
                sock.recv(1)
        gate.open()
        sock.settimeout(60)
        assert sock.recv(1000).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("begin", [b"", GET, POST + b"\r\n12345", GET + b"\r\n" + POST + b"\r\n1"])
def test_a_stop_does_not_wait_for_incomplete_requests(
    tmp_path: Path, begin: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection is closed at once, and nothing is logged as a fault."""
    write_model(tmp_path / "store", "echo")
    with running_server(tmp_path / "store", tmp_path / "cache") as server:
        assert register(server, "echo").status_code == 200
        url = urlsplit(server.inference)
        sock = socket.create_connection((url.hostname, url.port), timeout=60)
        sock.sendall(begin)
        assert predict(server, "echo").status_code == 200
        started = time.monotonic()
    assert time.monotonic() - started < 20  # the grace is half a minute
    with sock:
        received = b""
        while part := sock.recv(1000):
            received += part
    assert received.count(b"HTTP/1.1 ") == begin.count(b"GET /ping HTTP/1.1\r\nhost: h\r\n\r\n")
    assert not [record for record in caplog.records if record.exc_info]
