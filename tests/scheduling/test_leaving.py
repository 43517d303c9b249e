"""A client that leaves while its handler runs: the handler can ask, and its worker is free."""

import socket
from pathlib import Path

import httpx

from flambeau.testing.echo import predict, register, write_model
from flambeau.testing.server import running_server
from flambeau.testing.waiting import wait_until

# Runs until nobody waits any more.
PATIENT = """
import time

def handle(data, context):
    if data is None:
        return None
    file = context.get_request_header(0, "x-file")
    if file:
        open(file, "w").close()
        while not context.is_cancelled():
            time.sleep(0.005)
        open(file + ".stopped", "w").close()
    return ["asked: " + str(context.is_cancelled())]
"""


def test_a_handler_hears_that_its_client_has_left(tmp_path: Path) -> None:
    """Within a second (G7); the next request's handler hears nothing of it."""
    store = tmp_path / "store"
    store.mkdir()
    write_model(store, "patient", PATIENT)
    file = tmp_path / "began"
    with running_server(store, tmp_path / "cache") as server:
        assert register(server, "patient").status_code == 200
        address = httpx.URL(server.inference)
        with socket.create_connection((address.host, address.port or 80)) as client:
            head = f"POST /predictions/patient HTTP/1.1\r\nhost: a\r\nx-file: {file}\r\n"
            client.sendall(f"{head}content-length: 0\r\n\r\n".encode())
            wait_until(file.exists)
        wait_until((tmp_path / "began.stopped").exists, 5)
        assert predict(server, "patient").text == "asked: False"
