"""Listeners: shared addresses, UNIX sockets, and addresses that are taken."""

import contextlib
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from flambeau.config import Address
from flambeau.errors import ConfigError
from flambeau.frontend.listeners import bind
from flambeau.testing.echo import free_ports, register, write_model
from flambeau.testing.server import running_server
from flambeau.testing.waiting import wait_until


def test_equal_addresses_share_a_listener(tmp_path: Path) -> None:
    """All three APIs at one port (section 3.1)."""
    address = Address(port=free_ports(1)[0])
    write_model(tmp_path / "store", "echo")
    with running_server(
        tmp_path / "store",
        tmp_path / "cache",
        inference_address=address,
        management_address=address,
        metrics_address=address,
    ) as server:
        assert server.inference == server.management == server.metrics == str(address)
        query = {"url": "echo", "initial_workers": "1"}
        assert httpx.post(f"{address}/models", params=query, timeout=60).status_code == 200
        assert httpx.post(f"{address}/predictions/echo").status_code == 200
        assert httpx.get(f"{address}/metrics").status_code == 200
        assert httpx.get(f"{address}/ping").status_code == 200
        assert httpx.delete(f"{address}/models").status_code == 405
        assert httpx.get(f"{address}/nowhere").status_code == 404


def test_metrics_can_be_switched_off(tmp_path: Path) -> None:
    """`enable_metrics_api=false`: no listener."""
    (port,) = free_ports(1)
    with running_server(
        tmp_path, tmp_path / "cache", enable_metrics_api=False, metrics_address=Address(port=port)
    ) as server:
        assert httpx.get(f"{server.inference}/ping").status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}/metrics")


def test_a_unix_socket(tmp_path: Path) -> None:
    """Serves, replaces what a killed server left behind, and is removed at the end."""
    path = tmp_path / "inference.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    address = Address(path=str(path))
    with running_server(tmp_path, tmp_path / "cache", inference_address=address) as server:
        assert server.inference == f"unix:{path}"
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            answer = client.get("http://h/ping")
            assert answer.json() == {"status": "Healthy"}
    assert not path.exists()


def test_a_port_in_use_is_named_with_its_key() -> None:
    """Key, address, reason and way out in one line."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = Address(port=taken.getsockname()[1])
        with pytest.raises(ConfigError) as raised:
            bind("management_address", address)
    message = raised.value.message
    assert message.startswith(
        f"Failed to bind to address: {address} (management_address): Address already in use"
    )
    assert "\n" not in message


def test_a_unix_socket_that_answers_is_not_taken_away(tmp_path: Path) -> None:
    """Nor is a file that is no socket."""
    path = tmp_path / "x.sock"
    first = bind("inference_address", Address(path=str(path)))
    with pytest.raises(ConfigError, match="in use"):
        bind("inference_address", Address(path=str(path)))
    first.close()
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(ConfigError, match="inference_address"):
        bind("inference_address", Address(path=str(file)))
    assert file.read_text() == "precious"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "256.1.1.1"])
def test_a_host_that_is_none_is_a_clear_error(host: str) -> None:
    """Not a traceback."""
    with pytest.raises(ConfigError, match="inference_address"):
        bind("inference_address", Address(host, 0))


def test_worker_numbers_begin_where_torchserve_s_do(tmp_path: Path) -> None:
    """`initial_worker_port`: a number in log lines and in describe; no port is opened."""
    write_model(tmp_path / "store", "echo")
    with running_server(tmp_path / "store", tmp_path / "cache", initial_worker_port=9100) as server:
        assert register(server, "echo").status_code == 200
        (worker,) = httpx.get(f"{server.management}/models/echo").json()[0]["workers"]
        assert worker["id"] == "9100"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", 9100), timeout=60)


def test_the_last_descriptors_are_not_for_clients(tmp_path: Path) -> None:
    """Connections are answered 503 before none is left; those that are open go on, and there is room
    again when some are closed."""
    (tmp_path / "store").mkdir()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with (
        running_server(tmp_path / "store", tmp_path / "cache") as server,
        contextlib.ExitStack() as stack,
        httpx.Client() as open_since_long,
    ):
        url = f"{server.inference}/ping"
        assert open_since_long.get(url).status_code == 200
        address = ("127.0.0.1", int(server.inference.rpartition(":")[2]))
        for _ in range(300):  # of few descriptors, a quarter is kept
            stack.enter_context(Path(os.devnull).open("rb"))
        limit = max(map(int, os.listdir("/proc/self/fd"))) + 80  # for clients and server
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
        try:
            held = [stack.enter_context(socket.create_connection(address)) for _ in range(45)]
            refused = httpx.get(url)
            assert open_since_long.get(url).status_code == 200
            for connection in held:
                connection.close()
            wait_until(lambda: httpx.get(url).status_code == 200)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert "ulimit -n" in refused.json()["message"]


def test_a_server_takes_all_descriptors_that_it_may_have() -> None:
    """The usual 1,024 are a default, not a limit."""
    code = """
import resource
from flambeau.frontend.descriptors import raise_limit
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))
raise_limit()
print(resource.getrlimit(resource.RLIMIT_NOFILE) == (most, most))
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "True\n"
