"""Several front-end processes on the inference port (`http_workers`): one core, the same answers."""

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from flambeau.testing.echo import (
    Gate,
    alive,
    predict,
    register,
    scale,
    waiting,
    write_model,
)
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until
from tests.frontend.front_ends import TWO, foreground_server, front_ends


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    store = tmp_path_factory.mktemp("store")
    write_model(store, "echo")
    with running_server(
        store,
        tmp_path_factory.mktemp("cache"),
        http_workers=TWO,
        ts_open_inference_protocol=True,
        cors_allowed_origin="https://ui.example",
        max_request_size=100_000,
    ) as running:
        assert register(running, "echo").status_code == 200
        yield running


def ask(server: RunningServer, method: str, path: str, **arguments: object) -> httpx.Response:
    return httpx.request(method, server.inference + path, timeout=60, **arguments)  # type: ignore[arg-type]


def test_connections_are_spread_over_the_processes(server: RunningServer) -> None:
    """Each process has a share of them, and the server process has none."""
    url = urlsplit(server.inference)
    assert len(front_ends()) == TWO
    before = {pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in front_ends()}
    sockets = [socket.create_connection((url.hostname, url.port)) for _ in range(64)]
    wait_until(
        lambda: (
            sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in before) == sum(before.values()) + 64
        )
    )
    for pid, count in before.items():
        assert len(os.listdir(f"/proc/{pid}/fd")) > count
    for sock in sockets:
        sock.close()


@pytest.mark.parametrize("repeat", range(4))
def test_answers_are_those_of_one_process(server: RunningServer, repeat: int) -> None:
    """Bodies, forms, headers, statuses, streams, methods and every protocol of the address."""
    answer = predict(server, "echo", '{"a": 1}', content_type="application/json")
    assert answer.json()["row"] == {"body": ["dict", {"a": 1}]}
    assert answer.headers["access-control-allow-origin"] == "https://ui.example"
    assert answer.headers["cache-control"].startswith("no-cache")
    form = ask(server, "POST", "/predictions/echo", data={"x": "1"}, files={"f": b"2"})
    assert set(form.json()["row"]) == {"x", "f"}
    seen = ask(server, "PUT", "/predictions/echo?q=1", headers={"x-do": "see", "X-Own": "e"}).json()
    assert seen["headers"]["X-Own"] == "e"
    assert seen["headers"]["url_query"] == "q=1"
    own = predict(server, "echo", x_do="headers")
    assert own.headers["x-own"] == "yes"
    assert own.headers["content-type"] == "text/x-own"
    assert predict(server, "echo", x_status="299").status_code == 299
    assert predict(server, "echo", x_do="stream").text.startswith("part 0 part 1 part 2 ")
    assert len(predict(server, "echo", b"y" * 90_000).json()["row"]["body"][1]) == 90_000
    assert predict(server, "echo", x_do="bytes", x_size="3000000").content == b"x" * 3_000_000
    assert ask(server, "HEAD", "/predictions/echo").content == b""
    assert ask(server, "POST", "/v1/models/echo:predict", content="x").status_code == 200
    assert ask(server, "POST", "/models/echo/invoke?p=1", content="x").json()["row"]["p"]
    assert ask(server, "POST", "/invocations?model_name=echo", content="x").status_code == 200
    assert ask(server, "GET", "/ping").json() == {"status": "Healthy"}
    assert ask(server, "GET", "/v2/health/ready").json() == {"ready": True}
    described = ask(server, "GET", "/api-description").json()["paths"]
    assert "/predictions/{model_name}" in described
    assert ask(server, "OPTIONS", "/predictions/echo").status_code == 200


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/predictions/nobody", {}, 404),
        ("/predictions/echo/9", {}, 404),
        ("/predictions/ec%zzho", {}, 403),
        ("/nowhere", {}, 404),
        ("/models", {}, 404),
        ("/metrics", {}, 404),
        ("/invocations", {}, 400),
        ("/predictions/echo", {"x-do": "raise"}, 503),
        ("/predictions/echo", {"x-do": "fail", "x-code": "507"}, 507),
        ("/predictions/echo", {"x-do": "error-item"}, 418),
    ],
)
def test_errors_are_those_of_one_process(
    server: RunningServer, path: str, headers: dict[str, str], status: int
) -> None:
    """With TorchServe's shape; management and metrics are not served here."""
    answer = ask(server, "POST", path, content="x", headers=headers)
    assert answer.status_code == status
    assert answer.json()["code"] == status


def test_a_body_above_the_limit_is_refused(server: RunningServer) -> None:
    """In the front end, before the core sees any of it."""
    assert predict(server, "echo", b"x" * 100_001).status_code == 413


def test_refusals_of_the_core_arrive_whole(tmp_path: Path, gate: Gate) -> None:
    """A full queue is a 503 with a Retry-After, and a model that has left is a 404."""
    write_model(tmp_path / "store", "echo")
    with (
        running_server(
            tmp_path / "store", tmp_path / "cache", http_workers=TWO, job_queue_size=1
        ) as server,
        ThreadPoolExecutor(2) as threads,
    ):
        register(server, "echo")
        first = threads.submit(predict, server, "echo", **gate.headers)
        gate.wait_entered()
        second = threads.submit(predict, server, "echo")
        wait_until(lambda: waiting(server, "echo") == 1)
        refused = predict(server, "echo")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        gate.open()
        assert first.result().status_code == second.result().status_code == 200
        assert scale(server, "echo", 0).status_code == 200
        assert predict(server, "echo").status_code == 503
        assert httpx.delete(f"{server.management}/models/echo").status_code == 200
        for _ in range(4):
            assert predict(server, "echo").status_code == 404


def test_responses_are_counted_and_logged_in_the_core(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every one of a front end's, soon after it was sent; at the latest when the server stops."""
    caplog.set_level(logging.INFO, "ACCESS_LOG")
    (tmp_path / "store").mkdir()
    with running_server(tmp_path / "store", tmp_path / "cache", http_workers=TWO) as server:

        def count() -> float:
            text = httpx.get(f"{server.metrics}/metrics").text
            lines = [line for line in text.splitlines() if line.startswith("Requests4XX{")]
            return sum(float(line.rpartition(" ")[2]) for line in lines)

        for number in range(20):
            assert predict(server, f"nobody-{number}").status_code == 404
        wait_until(lambda: count() == 20)
        assert predict(server, "nobody-last").status_code == 404
    lines = [r.getMessage() for r in caplog.records if r.name == "ACCESS_LOG"]
    assert sum('"POST /predictions/nobody-' in line and "404" in line for line in lines) == 21


def test_a_client_that_leaves_withdraws_its_request(server: RunningServer, gate: Gate) -> None:
    """Its place in the core's queue is free again."""
    url = urlsplit(server.inference)
    request = b"POST /predictions/echo HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n"
    held = request + b"x-do: gate\r\nx-file: " + str(gate.file).encode() + b"\r\n\r\n"
    with socket.create_connection((url.hostname, url.port)) as busy:
        busy.sendall(held)
        gate.wait_entered()
        with socket.create_connection((url.hostname, url.port)) as impatient:
            impatient.sendall(request + b"\r\n")
            wait_until(lambda: waiting(server, "echo") == 1)
        wait_until(lambda: waiting(server, "echo") == 0)
        gate.open()
        busy.settimeout(60)
        assert busy.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_a_front_end_that_dies_is_replaced(
    tmp_path: Path, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """Its requests are withdrawn, the port stays served, and the other one's requests are answered."""
    others = front_ends()
    write_model(tmp_path / "store", "echo")
    with running_server(tmp_path / "store", tmp_path / "cache", http_workers=TWO) as server:
        register(server, "echo")
        url = urlsplit(server.inference)
        request = b"POST /predictions/echo HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n"
        held = request + b"x-do: gate\r\nx-file: " + str(gate.file).encode() + b"\r\n\r\n"
        busy = socket.create_connection((url.hostname, url.port))
        busy.sendall(held)
        gate.wait_entered()
        crowd = [socket.create_connection((url.hostname, url.port)) for _ in range(32)]
        for sock in crowd:
            sock.sendall(request + b"\r\n")
        wait_until(lambda: waiting(server, "echo") == 32)
        victim, survivor = front_ends(but=others)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: not alive(victim) and waiting(server, "echo") < 32)
        left = waiting(server, "echo")
        assert 0 < left < 32
        gate.open()
        answers = [_answer(sock) for sock in crowd]
        assert sum(answer.startswith(b"HTTP/1.1 200 ") for answer in answers) == left
        assert answers.count(b"") == 32 - left
        for _ in range(16):
            assert predict(server, "echo").status_code == 200
        wait_until(lambda: len(front_ends(but=others)) == TWO)
        assert survivor in front_ends(but=others)
        assert "Front-end process" in caplog.text
        busy.close()


def _answer(sock: socket.socket) -> bytes:
    with sock:
        sock.settimeout(60)
        try:
            return sock.recv(65536)
        except ConnectionError:
            return b""


def test_a_stop_answers_what_was_accepted(tmp_path: Path) -> None:
    """SIGTERM to every process of the server, as a service manager does: nothing is lost."""
    with foreground_server(tmp_path, "http_workers=2") as (process, ports):
        wait_until(lambda: _status(ports[0]) == 200)
        gate = Gate(tmp_path / "gate")
        headers = {"x-do": "gate", "x-file": str(gate.file)}
        with ThreadPoolExecutor(8) as threads:
            asked = [
                threads.submit(
                    httpx.post,
                    f"http://127.0.0.1:{ports[0]}/predictions/echo",
                    headers=headers,
                    timeout=60,
                )
                for _ in range(8)
            ]
            gate.wait_entered()
            wait_until(lambda: _waiting(ports[1]) == 7)
            for pid in (*front_ends(process.pid), process.pid):
                os.kill(pid, signal.SIGTERM)
            wait_until(lambda: _status(ports[0]) == 0)  # nobody listens any more
            gate.open()
            assert [each.result().status_code for each in asked] == [200] * 8
        assert process.wait(60) == 0
    log = (tmp_path / "logs" / "access_log.log").read_text()
    assert log.count('"POST /predictions/echo HTTP/1.1" 200') == 8


def _status(port: int) -> int:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/ping").status_code
    except httpx.TransportError:
        return 0


def _waiting(port: int) -> int:
    document = httpx.get(f"http://127.0.0.1:{port}/models/echo").json()[0]
    return int(document["jobQueueStatus"]["pendingRequests"])


def test_front_ends_do_not_outlive_the_server(tmp_path: Path) -> None:
    """However it ends."""
    write_model(tmp_path / "store", "echo")
    script = (
        "import sys, threading; from pathlib import Path;"
        "from flambeau.testing.server import running_server;"
        "context = running_server(Path('store'), Path('cache'), http_workers=2);"
        "context.__enter__(); print('up', flush=True); threading.Event().wait()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        pids = front_ends(process.pid)
        assert len(pids) == TWO
        process.kill()
    wait_until(lambda: not any(alive(pid) for pid in pids))
