"""TLS listeners: clients count, and are refused, before they shake hands."""

import contextlib
import os
import resource
import select
import socket
import ssl
from pathlib import Path

import httpx
import pytest

from flambeau.protocols import limits
from flambeau.testing.echo import open_descriptors
from flambeau.testing.server import running_server
from flambeau.testing.waiting import wait_until
from tests.frontend.test_tls import SECURE, handshake, shown_by, trusting_nobody


def test_connections_count_from_before_the_handshake(tmp_path: Path) -> None:
    """Within `max_connections`; what is beyond is closed at once, and whoever leaves makes room."""
    config = {"inference_address": SECURE, "max_connections": 10}
    with (
        running_server(tmp_path, tmp_path / "cache", **config) as server,
        contextlib.ExitStack() as stack,
    ):
        held = [stack.enter_context(connect(server.inference)) for _ in range(30)]
        wait_until(lambda: sum(map(is_ended, held)) == 20)
        assert not any(map(is_ended, held[:10]))
        with pytest.raises((ConnectionError, ssl.SSLError)):
            shown_by(server.inference)
        held[0].close()
        held[1].sendall(b"no TLS" * 100)
        for _ in range(2):  # both places, and no more
            wait_until(lambda: is_open(stack.enter_context(connect(server.inference))))
        assert not is_open(stack.enter_context(connect(server.inference)))


def test_one_that_has_shaken_hands_counts_once(tmp_path: Path) -> None:
    """And gives its place back at its end; an idle one makes room."""
    config = {"inference_address": SECURE, "max_connections": 2}
    with (
        running_server(tmp_path, tmp_path / "cache", **config) as server,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(3):
            with contextlib.ExitStack() as pair:
                for _ in range(2):
                    assert asks(pair.enter_context(handshake(server.inference, trusting_nobody())))
        first, second = (
            stack.enter_context(handshake(server.inference, trusting_nobody())) for _ in range(2)
        )
        assert asks(first)
        assert asks(second)
        third = stack.enter_context(handshake(server.inference, trusting_nobody()))
        assert asks(third)
        assert first.recv(1) == b""
        assert asks(second)


def test_silent_clients_leave_descriptors_to_others(tmp_path: Path) -> None:
    """Their connections are closed before the last descriptors are taken, and a plain listener of the
    same server answers."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with (
        running_server(tmp_path, tmp_path / "cache", inference_address=SECURE) as server,
        contextlib.ExitStack() as stack,
        httpx.Client() as open_since_long,
    ):
        url = f"{server.management}/models"
        assert open_since_long.get(url).status_code == 200
        for _ in range(300):  # of few descriptors, a quarter is kept
            stack.enter_context(Path(os.devnull).open("rb"))
        limit = max(map(int, os.listdir("/proc/self/fd"))) + 120  # for clients and server
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
        try:
            held = [stack.enter_context(connect(server.inference)) for _ in range(90)]
            wait_until(lambda: any(map(is_ended, held)))
            assert httpx.get(url).status_code in (200, 503)
            assert open_since_long.get(url).status_code == 200
            assert sum(not is_ended(each) for each in held) < 60
            for each in held:
                each.close()
            wait_until(lambda: httpx.get(url).status_code == 200)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert shown_by(server.inference)


def test_a_refused_client_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has its 400; that it does not say goodbye keeps no descriptor."""
    monkeypatch.setattr(limits, "GOODBYE_SECONDS", 0.1)
    with (
        running_server(tmp_path, tmp_path / "cache", inference_address=SECURE) as server,
        handshake(server.inference, trusting_nobody()) as sock,
    ):
        start = open_descriptors()
        sock.sendall(b"nonsense\r\n\r\n")
        wait_until(lambda: open_descriptors() < start)
        assert sock.recv(4096).startswith(b"HTTP/1.1 400 ")


def connect(address: str) -> socket.socket:
    """A connection whose client says nothing."""
    url = httpx.URL(address)
    return socket.create_connection((url.host, url.port or 0), timeout=60)


def is_ended(sock: socket.socket) -> bool:
    """Whether the server has closed it, as far as is known now."""
    return bool(select.select([sock], [], [], 0)[0])


def is_open(sock: socket.socket) -> bool:
    """Whether the server has let it in: it is open, and after a while still is."""
    return not select.select([sock], [], [], 0.2)[0]


def asks(sock: ssl.SSLSocket) -> bool:
    sock.sendall(b"GET /ping HTTP/1.1\r\nhost: h\r\n\r\n")
    return sock.recv(4096).startswith(b"HTTP/1.1 200 ")
