"""Clients that stall, flood or break off: what each may cost (promises.md G18, G19)."""

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from flambeau.frontend.connections import Connections
from flambeau.protocols import limits
from flambeau.testing.echo import Gate, predict, register, write_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until

GET = b"GET /ping HTTP/1.1\r\nhost: h\r\n\r\n"
MANY = b"GET /ping HTTP/1.1\r\n\r\n"
CHUNKED = b"POST /predictions/echo HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n"


def connect(server: RunningServer) -> socket.socket:
    """A connection to the inference address."""
    url = urlsplit(server.inference)
    return socket.create_connection((url.hostname, url.port), timeout=60)


def rest(sock: socket.socket) -> bytes:
    """What comes until the server ends the connection."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while part := sock.recv(65536):
            received += part
    return received


def gated(gate: Gate) -> bytes:
    """A request that waits until the gate opens."""
    head = b"POST /predictions/echo HTTP/1.1\r\nhost: h\r\nx-do: gate\r\nx-file: %s\r\n"
    return head % str(gate.file).encode() + b"content-length: 1\r\n\r\n1"


def test_a_body_that_trickles_is_a_408(
    echo_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then does not win time; 1 KiB/s does."""
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.3)
    with connect(echo_server) as sock:
        sock.sendall(CHUNKED + b"\r\n")
        sock.settimeout(0.05)
        received = b""
        started = time.monotonic()
        while not received and time.monotonic() < started + 30:
            try:
                received = sock.recv(1000)
            except TimeoutError:
                sock.sendall(b"1\r\nx\r\n")
    assert received.startswith(b"HTTP/1.1 408 ")
    assert predict(echo_server, "echo").status_code == 200


def test_a_client_that_does_not_read_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when its connection has been closed for being idle: nothing waits for it for ever."""
    monkeypatch.setattr(limits, "WRITE_SECONDS", 0.6)
    monkeypatch.setattr(limits, "IDLE_SECONDS", 0.2)
    size = 32 * 1024 * 1024
    write_model(tmp_path / "store", "echo")
    with running_server(tmp_path / "store", tmp_path / "cache", max_response_size=size) as server:
        assert register(server, "echo").status_code == 200
        with connect(server) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            asked = b"x-do: bytes\r\nx-size: %d\r\n\r\n" % size
            sock.sendall(b"GET /predictions/echo HTTP/1.1\r\nhost: h\r\n" + asked)
            started = time.monotonic()
            assert sock.recv(1) == b"H"
            wait_until(lambda: _is_reset(sock), 30)
            assert time.monotonic() - started < 25
            assert len(rest(sock)) < size
        assert predict(server, "echo").status_code == 200


def _is_reset(sock: socket.socket) -> bool:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


def test_the_longest_idle_makes_room_and_a_busy_one_does_not(tmp_path: Path, gate: Gate) -> None:
    """Beyond max_connections the newest gets a 503 that names the key."""
    write_model(tmp_path / "store", "echo")
    with (
        running_server(tmp_path / "store", tmp_path / "cache", max_connections=2) as server,
        contextlib.ExitStack() as stack,
    ):
        assert register(server, "echo").status_code == 200
        first, second = (stack.enter_context(connect(server)) for _ in range(2))
        first.sendall(GET)
        assert first.recv(1000).startswith(b"HTTP/1.1 200 ")
        second.sendall(gated(gate))
        gate.wait_entered()
        third = stack.enter_context(connect(server))
        assert rest(first) == b""
        third.sendall(gated(gate))
        wait_until(lambda: rest(stack.enter_context(connect(server))) != b"", 10)
        refused = rest(stack.enter_context(connect(server)))
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: " in refused
        assert b"max_connections=2" in refused
        gate.open()
        assert second.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert third.recv(1000).startswith(b"HTTP/1.1 200 ")


class _Connection(asyncio.Protocol):
    """One end of a real connection, as `Connections` wants it."""

    idle_from: float | None = None
    stalled_from: float | None = None

    def __init__(self) -> None:
        self.transport: asyncio.Transport


@contextlib.asynccontextmanager
async def _connection() -> AsyncIterator[_Connection]:
    ours, theirs = socket.socketpair()
    with theirs:
        loop = asyncio.get_running_loop()
        transport, made = await loop.create_connection(_Connection, sock=ours)
        made.transport = transport
        yield made
        transport.close()


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
async def test_an_address_has_a_limit_of_its_own_and_loopback_has_none(host: str) -> None:
    """Proxies on this machine bring everybody's connections; a stranger brings its own."""
    connections = Connections(100, 2)
    async with contextlib.AsyncExitStack() as stack:
        made = [await stack.enter_async_context(_connection()) for _ in range(10)]
        for each in made[:3]:
            assert connections.admit(each, ("127.0.0.1", 1)) == ""
        assert connections.admit(made[3], ("::ffff:127.0.0.1", 1)) == ""
        assert connections.admit(made[4], None) == ""
        assert connections.admit(made[5], (host, 1)) == ""
        assert connections.admit(made[6], (host, 2)) == ""
        assert "max_connections_per_address=2" in connections.admit(made[7], (host, 3))
        connections.forget(made[7])
        made[5].idle_from = 1.0
        assert connections.admit(made[8], (host, 4)) == ""
        assert made[5].transport.is_closing()
        for each in made:
            connections.forget(each)


def test_thousands_of_requests_in_one_read_are_not_held_at_once(
    echo_server: RunningServer, gate: Gate
) -> None:
    """They wait as bytes, and then in the client; each is answered in the end, in its turn."""
    with connect(echo_server) as sock:
        sock.sendall(
            gated(gate) + MANY * 20_000 + b"GET /ping HTTP/1.1\r\nconnection: close\r\n\r\n"
        )
        gate.wait_entered()
        gate.open()
        received = rest(sock)
    assert received.count(b"HTTP/1.1 200 ") == 20_002


def test_garbage_waits_for_the_answers_to_what_came_before(
    echo_server: RunningServer, gate: Gate
) -> None:
    """A client that has pipelined would take an early 400 for the answer to its first request."""
    with connect(echo_server) as sock:
        sock.sendall(gated(gate) + GET + b"nonsense\r\n\r\n" + GET)
        gate.wait_entered()
        gate.open()
        received = rest(sock)
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"200", b"400"]


def test_a_broken_body_of_a_later_request_is_not_the_earlier_ones_fault(
    echo_server: RunningServer, gate: Gate
) -> None:
    """The 400 is for the request that broke."""
    with connect(echo_server) as sock:
        sock.sendall(gated(gate) + CHUNKED + b"\r\nzz\r\n")
        gate.wait_entered()
        gate.open()
        received = rest(sock)
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"400"]


def test_trailers_reach_no_handler_and_have_an_end(echo_server: RunningServer) -> None:
    """They come after keys were checked, and would be kept in memory without bound."""
    end = b"0\r\nauthorization: x\r\nx-do: raise\r\n\r\n"
    with connect(echo_server) as sock:
        sock.sendall(CHUNKED + b"connection: close\r\n\r\n2\r\nab\r\n" + end)
        assert rest(sock).startswith(b"HTTP/1.1 200 ")
    with connect(echo_server) as sock, contextlib.suppress(ConnectionError):
        sock.sendall(CHUNKED + b"\r\n0\r\n" + b"x: y\r\n" * 1_000_000)
        assert rest(sock).startswith(b"HTTP/1.1 400 ")


def test_a_chunk_extension_has_an_end(echo_server: RunningServer) -> None:
    """It is no data: a client could send it for ever."""
    with connect(echo_server) as sock, contextlib.suppress(ConnectionError):
        sock.sendall(CHUNKED + b"\r\n2;" + b"x" * 10_000_000)
        assert rest(sock).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("count", [limits.MAX_HEADERS - 2, limits.MAX_HEADERS + 1])
def test_the_number_of_headers_is_limited(echo_server: RunningServer, count: int) -> None:
    """With a 431 that tells the number."""
    headers = b"".join(b"x%d:\r\n" % number for number in range(count))
    with connect(echo_server) as sock:
        sock.sendall(GET[:-2] + headers + b"connection: close\r\n\r\n")
        received = rest(sock)
    if count < limits.MAX_HEADERS:
        assert received.startswith(b"HTTP/1.1 200 ")
    else:
        assert received.startswith(b"HTTP/1.1 431 ")
        assert str(limits.MAX_HEADERS).encode() in received


def test_a_million_tiny_chunks_are_one_body(echo_server: RunningServer) -> None:
    """They cost their bytes, not an object each that stays."""
    with connect(echo_server) as sock:
        sock.sendall(CHUNKED + b"connection: close\r\n\r\n" + b"1\r\nx\r\n" * 90_000 + b"0\r\n\r\n")
        received = rest(sock)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert httpx.get(echo_server.inference + "/ping").status_code == 200
