"""`/livez`, `/startupz` and `/readyz`: what an orchestrator asks, and what a stop tells it (G9, G21)."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from flambeau.supervisor import canary
from flambeau.testing.echo import (
    Gate,
    alive,
    predict,
    register,
    scale,
    worker_pids,
    write_model,
)
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until
from tests.frontend.front_ends import foreground_server, front_ends

SLOW = "import time\ntime.sleep(0.4)\n" + "def handle(data, context):\n    return data\n"


def ask(address: str, probe: str) -> httpx.Response:
    return httpx.get(f"{address}/{probe}", timeout=30)


@pytest.fixture(params=["server", "process"])
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    write_model(tmp_path / "store", "echo")
    with running_server(
        tmp_path / "store",
        tmp_path / "cache",
        load_models=("echo",),
        disable_token_authorization=False,
        key_file=tmp_path / "key_file.json",
        front_end=request.param,
    ) as running:
        yield running


def test_probes_are_public_at_both_addresses(server: RunningServer) -> None:
    """They take no key, as `/ping` takes none; `lacking` says what a 503 is for."""
    wait_until(lambda: ask(server.inference, "readyz").status_code == 200)
    for address in (server.inference, server.management):
        for probe in ("livez", "startupz", "readyz"):
            assert ask(address, probe).json() == {"status": "yes", "lacking": []}
            assert httpx.head(f"{address}/{probe}").status_code == 200


def test_started_means_loaded(tmp_path: Path) -> None:
    """503 until each model of the configuration has had its workers; then yes, for ever."""
    write_model(tmp_path / "store", "slow", SLOW)
    with running_server(tmp_path / "store", tmp_path / "cache", load_models=("slow",)) as server:
        seen = {ask(server.inference, "startupz").text}
        assert ask(server.inference, "livez").status_code == 200
        while not any('"yes"' in text for text in seen):
            seen.add(ask(server.inference, "startupz").text)
        assert any('"slow_1.0: 0 of 1 workers are ready"' in text for text in seen)
        scale(server, "slow", 0)
        assert ask(server.inference, "startupz").status_code == 200


def test_ready_needs_the_workers(tmp_path: Path) -> None:
    """A model without its workers is named; one that is registered later counts once it is loaded."""
    write_model(tmp_path / "store", "echo")
    write_model(tmp_path / "store", "bad", "raise RuntimeError('no')\n")
    with running_server(tmp_path / "store", tmp_path / "cache") as server:
        assert ask(server.inference, "readyz").status_code == 200
        register(server, "bad", synchronous="false")
        assert ask(server.inference, "readyz").status_code == 200
        register(server, "echo")
        workers = httpx.get(f"{server.management}/models/echo").json()[0]["workers"]
        assert ask(server.inference, "readyz").status_code == 200
        os.kill(workers[0]["pid"], signal.SIGKILL)
        wait_until(lambda: not alive(workers[0]["pid"]))
        wait_until(lambda: ask(server.inference, "readyz").status_code == 200)


def test_an_idle_worker_has_to_show_that_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was stopped is found without a request; no handler is run for it. A busy one is not
    asked."""
    monkeypatch.setattr(canary, "DUE_SECONDS", 0.0)
    monkeypatch.setattr(canary, "FRESH_SECONDS", 2.0)
    write_model(tmp_path / "store", "echo")
    gate = Gate(tmp_path / "gate")
    with running_server(tmp_path / "store", tmp_path / "cache") as server:
        register(server, "echo")
        for _ in range(5):
            assert ask(server.inference, "readyz").status_code == 200
        (pid,) = (
            w["pid"] for w in httpx.get(f"{server.management}/models/echo").json()[0]["workers"]
        )
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: ask(server.inference, "readyz").status_code == 503)
        lacking = ask(server.inference, "readyz").json()["lacking"]
        assert lacking == ["echo_1.0: 0 of 1 workers answer"]
        assert ask(server.inference, "livez").status_code == 200
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: ask(server.inference, "readyz").status_code == 200)
        held = threading.Thread(
            target=predict, args=(server, "echo"), kwargs={"x_do": "gate", "x_file": str(gate.file)}
        )
        held.start()
        gate.wait_entered()
        monkeypatch.setattr(canary, "FRESH_SECONDS", 0.0)
        assert ask(server.inference, "readyz").status_code == 200
        gate.open()
        held.join()


@pytest.mark.parametrize("front_end", ["server", "process"])
def test_a_stop_is_told_before_it_happens(tmp_path: Path, front_end: str) -> None:
    """SIGTERM: not ready at once; for `drain_delay` requests are answered and connections end with
    their answers; then the exit code is 0. Live all the time."""
    with stoppable(tmp_path, "drain_delay=4", f"front_end={front_end}") as (process, port):
        inference = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=inference) as client:
            assert client.post("/predictions/echo").headers["connection"] == "keep-alive"
            told = time.monotonic()
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: ask(inference, "readyz").status_code == 503)
            assert ask(inference, "readyz").json()["lacking"][0] == "the server is stopping"
            assert ask(inference, "ping").status_code == 500
            assert ask(inference, "livez").status_code == 200
            answer = client.post("/predictions/echo")
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
            assert client.post("/predictions/echo").status_code == 200
        assert process.wait(30) == 0
        assert time.monotonic() - told >= 4


def test_a_second_signal_skips_the_delay(tmp_path: Path) -> None:
    """Ctrl-C twice does not wait."""
    with stoppable(tmp_path, "drain_delay=600") as (process, port):
        process.send_signal(signal.SIGINT)
        wait_until(lambda: ask(f"http://127.0.0.1:{port}", "readyz").status_code == 503)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_a_stop_waits_no_longer_than_its_grace(tmp_path: Path) -> None:
    """`shutdown_grace` bounds all of it: requests in flight are cut off then."""
    with stoppable(tmp_path, "shutdown_grace=1") as (process, port):
        held = threading.Thread(target=_hang, args=(port, tmp_path / "gate"))
        held.start()
        wait_until(lambda: bool(list(tmp_path.glob("gate.in*"))))
        told = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert time.monotonic() - told < 8
        held.join()


def _hang(port: int, file: Path) -> None:
    headers = {"x-do": "gate", "x-file": str(file)}
    with contextlib.suppress(httpx.HTTPError):
        httpx.post(f"http://127.0.0.1:{port}/predictions/echo", headers=headers, timeout=60)


@contextlib.contextmanager
def stoppable(folder: Path, *properties: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server that is ready and can be told to stop, and its inference port."""
    with foreground_server(folder, *properties) as (process, ports):
        wait_until(lambda: _is_ready(ports[0]))
        yield process, ports[0]


def _is_gone(pid: int) -> bool:
    return not alive(pid)


def _is_ready(port: int) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return ask(f"http://127.0.0.1:{port}", "readyz").status_code == 200
    return False


def test_a_front_end_of_its_own_leaves_workers_alone(tmp_path: Path) -> None:
    """`front_end=process` with one http worker: killed again and again, it is back at once, connections
    wait for it, and the model's worker is the same."""
    others = front_ends()
    write_model(tmp_path / "store", "echo")
    with running_server(tmp_path / "store", tmp_path / "cache", front_end="process") as server:
        register(server, "echo")
        before = worker_pids(server, "echo")
        for _ in range(3):
            (victim,) = front_ends(but=others)
            os.kill(victim, signal.SIGKILL)
            wait_until(partial(_is_gone, victim))
            started = time.monotonic()
            assert predict(server, "echo").status_code == 200
            assert time.monotonic() - started < 10
        assert worker_pids(server, "echo") == before
