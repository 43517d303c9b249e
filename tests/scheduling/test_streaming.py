"""Handlers that stream, over HTTP (contract.md section 5.7), beyond one client's one stream."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from flambeau.testing.echo import Gate, register, worker_pids, write_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until
from tests.scheduling.crowd import Crowd, client

# Streams `x-parts` chunks to every row, with `x-pause` seconds between them.
STREAM = """
import os, time
from ts.protocol.otf_message_handler import send_intermediate_predict_response

def handle(data, context):
    if data is None:
        return None
    headers = context.get_all_request_header(0)
    if "x-file" in headers:
        open(headers["x-file"] + ".in." + str(os.getpid()), "w").close()
        while not os.path.exists(headers["x-file"]):
            time.sleep(0.005)
    context.set_response_status(202, "Going on", 0)
    try:
        for part in range(int(headers.get("x-parts", 1))):
            chunk = {"part": part} if "x-json" in headers else f"{part} of {len(data)}\\n"
            code = int(headers.get("x-code" if part else "x-first-code", 200))
            send_intermediate_predict_response(
                [chunk] * len(data), context.request_ids, "Intermediate", code, context)
            context.set_response_header(0, "x-late", "1")
            time.sleep(float(headers.get("x-pause", 0)))
    finally:
        if "x-marker" in headers:
            open(headers["x-marker"], "w").write(str(part))
    return ["end"] * len(data)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """`stream`: batches of 3; `hasty`: two seconds between chunks at most."""
    store = tmp_path_factory.mktemp("store")
    write_model(store, "stream", STREAM, "1.0", batchSize=3)
    write_model(store, "hasty", STREAM, "1.0", batchSize=3, responseTimeout=2)
    with running_server(store, tmp_path_factory.mktemp("cache")) as running:
        for name in ("stream", "hasty"):
            assert register(running, name).status_code == 200
        yield running


def post(server: RunningServer, model: str = "stream", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{server.inference}/predictions/{model}", headers=named, timeout=60)


def test_the_first_chunk_brings_status_and_headers(server: RunningServer) -> None:
    """What is set later is too late; the helper's own header stays inside."""
    answer = post(server, x_parts="2", x_json="1")
    assert answer.status_code == 202
    assert answer.text == '{\n  "part": 0\n}{\n  "part": 1\n}end'
    assert "x-late" not in answer.headers
    assert "ts_stream_next" not in answer.headers


def test_an_intermediate_error_ends_the_answer(server: RunningServer) -> None:
    """A code other than 200 is an error with the message that comes with it, as in TorchServe."""
    pids = worker_pids(server, "stream")
    with pytest.raises(httpx.RemoteProtocolError):
        post(server, x_parts="3", x_code="429")  # its first chunk is out
    answer = post(server, x_parts="1", x_first_code="429")
    assert answer.status_code == 429
    assert answer.json()["message"] == "Intermediate"
    assert post(server).text == "0 of 1\nend"
    assert worker_pids(server, "stream") == pids


def test_a_stream_to_an_old_client_has_no_chunks(server: RunningServer) -> None:
    """HTTP/1.0 has none: the connection's end is the stream's (TorchServe sends chunks)."""
    url = urlsplit(server.inference)
    with socket.create_connection((url.hostname, url.port), timeout=20) as sock:
        sock.sendall(b"POST /predictions/stream HTTP/1.0\r\nx-parts: 2\r\n\r\n")
        received = b"".join(iter(lambda: sock.recv(65536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert b"connection: close" in head.lower()
    assert body == b"0 of 1\n1 of 1\nend"


async def test_a_batch_streams_together(server: RunningServer, gate: Gate) -> None:
    """Every request of the batch gets as many chunks, of its own."""
    async with client() as http:
        crowd = Crowd(server, "stream", http)
        first = crowd.send(x_file=str(gate.file))
        await asyncio.to_thread(gate.wait_entered)
        others = [crowd.send(x_parts="2"), crowd.send(x_parts="9")]
        await crowd.queued(2)
        gate.open()
        assert (await first).text == "0 of 1\nend"
        for other in others:
            assert (await other).text == "0 of 2\n1 of 2\nend"


def test_the_response_timeout_is_between_chunks(server: RunningServer) -> None:
    """A stream may last longer than responseTimeout; silence within it may not: it is cut."""
    assert post(server, "hasty", x_parts="22", x_pause="0.1").text.endswith("21 of 1\nend")
    pids = worker_pids(server, "hasty")
    with pytest.raises(httpx.RemoteProtocolError):
        post(server, "hasty", x_parts="2", x_pause="300")
    wait_until(lambda: worker_pids(server, "hasty") not in (pids, []))
    wait_until(lambda: post(server, "hasty").status_code == 202)


async def test_a_queued_request_waits_for_longer_than_response_timeout(
    server: RunningServer,
) -> None:
    """Its time-out is another one: it waits while the worker streams (section 5.14)."""
    async with client() as http:
        crowd = Crowd(server, "hasty", http)
        url = f"{server.inference}/predictions/hasty"
        headers = {"x-parts": "22", "x-pause": "0.1"}
        async with http.stream("POST", url, headers=headers) as running:
            parts = running.aiter_bytes()
            await anext(parts)
            waiting = crowd.send()
            await crowd.queued(1)
            async for _ in parts:
                pass
        assert (await waiting).text == "0 of 1\nend"


def test_a_stream_without_readers_is_stopped(server: RunningServer, tmp_path: Path) -> None:
    """The handler learns of it at its next chunk; its `finally` runs, and its worker lives."""
    pids = worker_pids(server, "stream")
    marker = tmp_path / "marker"
    headers = {"x-parts": "1000000", "x-pause": "0.01", "x-marker": str(marker)}
    url = f"{server.inference}/predictions/stream"
    with httpx.stream("POST", url, headers=headers) as answer:
        parts = answer.iter_raw()
        next(parts)
    wait_until(marker.exists)
    assert post(server).status_code == 202
    assert worker_pids(server, "stream") == pids


async def test_one_reader_is_enough(server: RunningServer, gate: Gate, tmp_path: Path) -> None:
    """Of two streams in one batch one client leaves: the other gets its stream whole."""
    async with client() as http:
        crowd = Crowd(server, "stream", http)
        first = crowd.send(x_file=str(gate.file))
        await asyncio.to_thread(gate.wait_entered)
        inner = Gate(tmp_path / "inner")
        leaver = crowd.send(x_parts="20", x_pause="0.01", x_file=str(inner.file))
        await crowd.queued(1)
        stayer = crowd.send()
        await crowd.queued(2)
        gate.open()
        await first
        await asyncio.to_thread(inner.wait_entered)
        leaver.cancel()
        inner.open()
        assert (await stayer).text.endswith("19 of 2\nend")
