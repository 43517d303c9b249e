"""Workers that hang tell where; nothing that a server has started outlives it (G6)."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from flambeau.testing.echo import alive, free_ports, predict, register, worker_pids, write_model
from flambeau.testing.server import RunningServer
from flambeau.testing.waiting import wait_until

HANGS_IN_NATIVE_CODE = """
import ctypes

def wait_where_nobody_looks():
    ctypes.PyDLL(None).pause()  # holds the interpreter's lock

def handle(data, context):
    if data is not None:
        wait_where_nobody_looks()
"""
HANGS_WHILE_LOADING = (
    "import threading\n\ndef load_forever():\n    threading.Event().wait()\n\nload_forever()\n"
)

# A child that it forks, one that it starts, and one that leaves its group.
PARENT = """
import os, subprocess, sys, time

def handle(data, context):
    if data is None:
        return None
    forked = os.fork()
    if forked == 0:
        while True:
            time.sleep(1)
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    return [f"{forked} {started.pid}"] * len(data)
"""


def _told(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(each.getMessage() for each in caplog.records if each.name == "MODEL_LOG")


def test_a_worker_that_hangs_in_native_code_tells_its_stacks(
    server: RunningServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the model's log, before it is replaced, though it holds the interpreter's lock."""
    write_model(tmp_path / "store", "stuck", HANGS_IN_NATIVE_CODE, responseTimeout=1)
    with caplog.at_level(logging.INFO):
        assert register(server, "stuck").status_code == 200
        (pid,) = worker_pids(server, "stuck")
        assert predict(server, "stuck").status_code == 504
        wait_until(lambda: worker_pids(server, "stuck") not in ([], [pid]))
    assert "in wait_where_nobody_looks" in _told(caplog)
    assert not alive(pid)


def test_a_load_that_takes_too_long_tells_its_stacks(
    server: RunningServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As for a request."""
    write_model(tmp_path / "store", "slow", HANGS_WHILE_LOADING)
    with caplog.at_level(logging.INFO):
        assert register(server, "slow", startup_timeout=1).status_code == 500
    assert "in load_forever" in _told(caplog)


def test_a_stopped_worker_is_said_to_be_stopped(
    server: RunningServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It cannot write anything down; it is ended after half a second all the same."""
    write_model(tmp_path / "store", "frozen", responseTimeout=1)
    with caplog.at_level(logging.INFO):
        assert register(server, "frozen").status_code == 200
        (pid,) = worker_pids(server, "frozen")
        os.kill(pid, signal.SIGSTOP)
        assert predict(server, "frozen").status_code == 504
        wait_until(lambda: not alive(pid))
    assert "the process is stopped by a signal" in _told(caplog)


def test_the_stack_of_a_crash_is_in_the_model_s_log(
    server: RunningServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A fatal signal in native code names the handler's line."""
    source = (
        "import ctypes\n\ndef handle(data, context):\n    if data:\n        ctypes.string_at(0)\n"
    )
    write_model(tmp_path / "store", "crashes", source)
    with caplog.at_level(logging.INFO):
        assert register(server, "crashes").status_code == 200
        assert predict(server, "crashes").status_code == 503
    told = _told(caplog)
    assert "Segmentation fault" in told
    assert 'handler.py", line 5 in handle' in told


def test_what_a_handler_has_started_ends_with_its_worker(
    server: RunningServer, tmp_path: Path
) -> None:
    """Forked and started children, once the worker is dead."""
    write_model(tmp_path / "store", "parent", PARENT)
    assert register(server, "parent").status_code == 200
    pids = [int(pid) for pid in predict(server, "parent").text.split()]
    assert all(alive(pid) for pid in pids)
    os.kill(worker_pids(server, "parent")[0], signal.SIGKILL)
    wait_until(lambda: not any(alive(pid) for pid in pids))


def test_the_kernel_takes_workers_before_the_server(server: RunningServer) -> None:
    """When the machine runs out of memory."""
    (pid,) = worker_pids(server, "echo")
    score = int(Path(f"/proc/{pid}/oom_score_adj").read_text())
    assert score > int(Path("/proc/self/oom_score_adj").read_text())


def test_nothing_outlives_a_server_that_is_killed(tmp_path: Path) -> None:
    """Zygote, workers, a stopped one, one that holds the lock, and what handlers have started."""
    store = tmp_path / "store"
    for name, source in (("parent", PARENT), ("stuck", HANGS_IN_NATIVE_CODE)):
        write_model(store, name, source, minWorkers=2, maxWorkers=2)
    ports = dict(zip(("inference", "management", "metrics"), free_ports(3), strict=True))
    lines = [f"{name}_address=http://127.0.0.1:{port}" for name, port in ports.items()]
    config = tmp_path / "config.properties"
    config.write_text("\n".join([*lines, "load_models=all", "disable_token_authorization=true"]))
    server = subprocess.Popen(
        [sys.executable, "-m", "flambeau.cli.torchserve", "--start", "--foreground", "--ncs",
         "--model-store", str(store), "--ts-config", str(config)],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    inference = f"http://127.0.0.1:{ports['inference']}"
    try:
        wait_until(lambda: _answers(f"{inference}/predictions/parent"), 60)
        httpx.post(f"{inference}/predictions/parent", timeout=60)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{inference}/predictions/stuck", timeout=0.5)
        everyone = psutil.Process(server.pid).children(recursive=True)
        assert len(everyone) >= 9  # the zygote, four workers, two of them with two children each
        os.kill(_workers_of(ports["management"], "parent")[0], signal.SIGSTOP)
    finally:
        server.kill()
        server.wait()
    wait_until(lambda: not any(alive(each.pid) for each in everyone), 2)


def _answers(url: str) -> bool:
    try:
        return httpx.post(url, timeout=60).status_code == 200
    except httpx.HTTPError:
        return False


def _workers_of(port: int, model: str) -> list[int]:
    described = httpx.get(f"http://127.0.0.1:{port}/models/{model}", timeout=60).json()
    return [worker["pid"] for worker in described[0]["workers"]]
