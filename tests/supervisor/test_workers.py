"""Workers come back, and nothing is lost: kills, crash loops, failed loads, scaling, drain."""

import asyncio
import gc
import logging
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from flambeau.supervisor.slot import Slot
from flambeau.testing.echo import (
    Gate,
    children,
    describe,
    open_descriptors,
    predict,
    register,
    scale,
    worker_pids,
    write_model,
)
from flambeau.testing.server import RunningServer
from flambeau.testing.waiting import wait_until
from tests.supervisor.load import HANGS, Load, healthy

FAILS = 'raise ValueError("no such tokenizer: bert-nowhere")\n'
EXITS = "import os\nos._exit(7)\n"
LEAVES = "raise SystemExit('gone')\n"
CUDA_ERROR = """
def handle(data, context):
    if data is not None:
        raise RuntimeError("CUDA error: device-side assert triggered")
"""

# The second process of a model loads only once a file is in the store.
SLOW_RESTART = """
import os, time

def handle(data, context):
    if data is None:
        again = os.path.exists("loaded")
        open("loaded", "w").close()
        while again and not os.path.exists("../go"):
            time.sleep(0.01)
        return None
    return ["ok"] * len(data)
"""

NO_MEMORY = """
def handle(data, context):
    if data:
        raise MemoryError
"""
# Loads once a file appears, so that a test can repair the model.
REPAIRABLE = """
import os
if not os.path.exists("repaired"):
    raise OSError("the disk is not there")

def handle(data, context):
    return ["fine"] * len(data or [])
"""


def test_a_worker_killed_while_idle_is_replaced(server: RunningServer) -> None:
    """The next request is answered by another process with the same worker id."""
    (pid,) = worker_pids(server, "echo")
    (identity,) = [worker["id"] for worker in describe(server, "echo")["workers"]]  # type: ignore[attr-defined]  # JSON
    os.kill(pid, signal.SIGKILL)
    answer = predict(server, "echo")
    assert answer.status_code == 200
    assert answer.json()["pid"] != pid
    assert describe(server, "echo")["workers"][0]["id"] == identity  # type: ignore[index]  # JSON


def test_a_worker_killed_while_it_answers_is_replaced_and_the_request_answered(
    server: RunningServer, gate: Gate
) -> None:
    """The client notices nothing but the time (G2)."""
    with ThreadPoolExecutor() as threads:
        asking = threads.submit(predict, server, "echo", **gate.headers)
        gate.wait_entered()
        os.kill(worker_pids(server, "echo")[0], signal.SIGKILL)
        gate.wait_entered(2)
        gate.open()
        assert asking.result(60).status_code == 200


def test_a_new_zygote_takes_over_and_workers_outlive_the_old_one(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Running workers answer on; workers that die later are replaced by the new zygote.

    Why a worker of the old one died is not known, and not guessed.
    """
    zygote = server.server.core.zygote
    process = zygote._process
    assert process is not None
    (worker,) = worker_pids(server, "echo")
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: zygote._process is not process and zygote.ready.is_set())
    assert predict(server, "echo").json()["pid"] == worker
    with caplog.at_level(logging.ERROR, "flambeau"):
        assert predict(server, "echo", x_do="exit").status_code == 503
    causes = [line.partition(", ")[2] for line in caplog.messages if "process died" in line]
    assert causes == ["cause unknown: its zygote had died before it", "exit code 3"]
    assert predict(server, "echo").json()["pid"] != worker
    assert scale(server, "echo", 2).status_code == 200
    assert len(worker_pids(server, "echo")) == 2


def test_zygote_and_worker_killed_together(server: RunningServer) -> None:
    """A request that comes then waits for both replacements."""
    process = server.server.core.zygote._process
    assert process is not None
    for pid in (process.pid, *worker_pids(server, "echo")):
        os.kill(pid, signal.SIGKILL)
    assert predict(server, "echo").status_code == 200


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (FAILS, "ValueError: no such tokenizer: bert-nowhere (handler.py:1)"),
        (EXITS, "exit code 7"),
        (LEAVES, "called sys.exit while loading: SystemExit: gone (handler.py:1)"),
        ("def handle(:\n", "SyntaxError"),
        ("import nothing_of_this_name\n", "nothing_of_this_name"),
    ],
)
def test_the_reason_of_a_failed_load_reaches_who_registers(
    server: RunningServer, tmp_path: Path, source: str, reason: str
) -> None:
    """500 with TorchServe's words and the cause; the model is gone again, the others serve on."""
    write_model(tmp_path / "store", "broken", source)
    answer = register(server, "broken")
    assert answer.status_code == 500
    message = answer.json()["message"]
    assert message.startswith("Failed to start workers for model broken version: 1.0: ")
    assert reason in message
    assert httpx.get(f"{server.management}/models/broken").status_code == 404
    assert predict(server, "echo").status_code == 200
    assert healthy(server)


def test_loading_has_a_time_limit(server: RunningServer, tmp_path: Path) -> None:
    """The process that hangs is ended, and the limit's name told."""
    write_model(tmp_path / "store", "slow", HANGS)
    answer = register(server, "slow", startup_timeout=1)
    assert answer.status_code == 500
    assert "longer than 1 s" in answer.json()["message"]
    zygote = server.server.core.zygote._process
    assert zygote is not None
    wait_until(lambda: len(children(zygote.pid)) == 1)  # echo's worker alone


def test_a_model_that_cannot_load_says_so_and_recovers_by_itself(
    server: RunningServer, tmp_path: Path
) -> None:
    """Asynchronous: 503 with the reason and a wait, unhealthy, retried; then it serves (10.3)."""
    folder = write_model(tmp_path / "store", "flaky", REPAIRABLE)
    assert register(server, "flaky", synchronous="false").status_code == 202
    wait_until(lambda: not healthy(server))
    refused = predict(server, "flaky")
    assert refused.status_code == 503
    assert "the disk is not there" in refused.json()["message"]
    assert "retry-after" in refused.headers
    (folder / "repaired").touch()
    wait_until(lambda: predict(server, "flaky").status_code == 200)
    assert healthy(server)


def test_memory_errors_are_507_and_the_worker_lives(server: RunningServer, tmp_path: Path) -> None:
    """`Out of resources`, as TorchServe says it (section 5.4)."""
    write_model(tmp_path / "store", "big", NO_MEMORY)
    assert register(server, "big").status_code == 200
    pids = worker_pids(server, "big")
    answer = predict(server, "big")
    assert (answer.status_code, answer.json()["message"]) == (507, "Out of resources")
    assert worker_pids(server, "big") == pids


def test_a_cuda_error_replaces_the_worker(server: RunningServer, tmp_path: Path) -> None:
    """507, and the next request is answered by another process (TorchServe keeps the spoilt one)."""
    write_model(tmp_path / "store", "spoilt", CUDA_ERROR)
    assert register(server, "spoilt").status_code == 200
    pids = worker_pids(server, "spoilt")
    answer = predict(server, "spoilt")
    assert (answer.status_code, answer.json()["message"]) == (507, "Out of resources")
    assert predict(server, "spoilt").status_code == 507
    wait_until(lambda: worker_pids(server, "spoilt") not in (pids, []))
    assert healthy(server)


def test_a_worker_that_fails_for_too_long_is_unhealthy(
    server: RunningServer, tmp_path: Path
) -> None:
    """`/ping` tells it after maxRetryTimeoutInSec, and the worker is still tried (10.3)."""
    for name, seconds in (("patient", 300), ("hasty", 0)):
        write_model(tmp_path / "store", name, SLOW_RESTART, "1.0", maxRetryTimeoutInSec=seconds)
        assert register(server, name).status_code == 200
        (pid,) = worker_pids(server, name)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda name=name: worker_pids(server, name) == [])  # type: ignore[misc]
        if name == "patient":
            assert healthy(server)
    wait_until(lambda: not healthy(server))  # its death has been reported
    store = server.server.config.model_store
    assert store is not None
    (Path(store) / "go").touch()
    wait_until(lambda: predict(server, "hasty").status_code == 200)
    assert healthy(server)


def test_two_hundred_requests_leak_no_descriptor_and_no_process(server: RunningServer) -> None:
    """Good ones, failures, streams, leavers and dead workers: the same counts after as before."""

    def count() -> tuple[int, int]:
        return open_descriptors(), len(children(os.getpid()))

    with httpx.Client(timeout=60) as client:
        url = f"{server.inference}/predictions/echo"
        client.post(url)
        gc.collect()
        before = count()
        for number in range(200):
            do = ("", "raise", "stream", "fail", "error-item")[number % 5]
            client.post(url, headers={"x-do": do, "x-code": "400"})
        for _ in range(3):
            os.kill(worker_pids(server, "echo")[0], signal.SIGKILL)
            assert client.post(url).status_code == 200
        wait_until(lambda: all(now <= then for now, then in zip(count(), before, strict=True)))


async def test_one_model_s_crashes_are_not_seen_by_another(
    server: RunningServer, tmp_path: Path
) -> None:
    """While one model's workers are killed again and again, the other answers everything (G3)."""
    write_model(tmp_path / "store", "victim")
    await asyncio.to_thread(register, server, "victim")
    killed: list[int] = []

    def kill_next() -> bool:
        new = [pid for pid in worker_pids(server, "victim") if pid not in killed]
        for pid in new:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
        return bool(new)

    with Load(server, threads=2) as load:
        for _ in range(3):
            await asyncio.to_thread(wait_until, kill_next)
    assert set(load.statuses) == {200}


def test_a_fault_of_ours_in_one_model_never_ends_the_server(
    server: RunningServer, tmp_path: Path
) -> None:
    """Whatever a slot meets that it does not expect: logged, tried again, the others serve (R9)."""
    write_model(tmp_path / "store", "odd")
    assert register(server, "odd").status_code == 200
    pool = server.server.core.registry.get("odd").pool
    loaded = pool.on_loaded
    meetings = iter([ZeroDivisionError("a fault of ours")])

    def faulty(slot: Slot, seconds: float) -> None:
        for error in meetings:
            raise error
        loaded(slot, seconds)

    pool.on_loaded = faulty
    os.kill(worker_pids(server, "odd")[0], signal.SIGKILL)
    assert predict(server, "odd").status_code == 200
    assert next(meetings, None) is None
    assert predict(server, "echo").status_code == 200
    zygote = server.server.core.zygote._process
    assert zygote is not None
    wait_until(lambda: len(children(zygote.pid)) == 2)  # the process of the fault is gone


def test_a_load_that_hangs_can_be_scaled_away_and_unregistered(
    server: RunningServer, tmp_path: Path
) -> None:
    """A loading worker is ended at once, not after its time limit."""
    write_model(tmp_path / "store", "slow", HANGS)
    assert register(server, "slow", initial_workers=2, synchronous="false").status_code == 202
    assert scale(server, "slow", 0).status_code == 200
    assert describe(server, "slow")["workers"] == []
    assert register(server, "slow", model_name="again", synchronous="false").status_code == 202
    assert httpx.delete(f"{server.management}/models/again", timeout=60).status_code == 200
    zygote = server.server.core.zygote._process
    assert zygote is not None
    wait_until(lambda: len(children(zygote.pid)) == 1)


def test_a_worker_that_is_stopped_by_a_signal_counts_as_hung(
    server: RunningServer, tmp_path: Path
) -> None:
    """SIGSTOP while idle: the next request is a 504 after the model's time-out, then it is well."""
    write_model(tmp_path / "store", "frozen", responseTimeout=1)
    assert register(server, "frozen").status_code == 200
    (pid,) = worker_pids(server, "frozen")
    os.kill(pid, signal.SIGSTOP)
    assert predict(server, "frozen").status_code == 504
    wait_until(lambda: predict(server, "frozen").status_code == 200)
    assert predict(server, "frozen").json()["pid"] != pid


def test_a_dead_worker_is_not_ready_even_before_its_end_is_reported(server: RunningServer) -> None:
    """Its closed socket is sign enough: no request is given to it meanwhile."""
    zygote = server.server.core.zygote._process
    assert zygote is not None
    (pid,) = worker_pids(server, "echo")
    os.kill(zygote.pid, signal.SIGSTOP)
    try:
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not worker_pids(server, "echo"))
    finally:
        os.kill(zygote.pid, signal.SIGCONT)
    assert predict(server, "echo").status_code == 200


def test_children_of_a_handler_do_not_hide_the_worker_s_death(
    server: RunningServer, tmp_path: Path, gate: Gate
) -> None:
    """A forked child inherits the socket and keeps it open; the worker is replaced all the same."""
    source = (
        f"import os, time\nif os.fork() == 0:\n"
        f"    while not os.path.exists({str(gate.file)!r}):\n        time.sleep(0.05)\n"
        "    os._exit(0)\n\n"
        "def handle(data, context):\n    return [str(os.getpid())] * len(data or [])\n"
    )
    write_model(tmp_path / "store", "parent", source)
    assert register(server, "parent").status_code == 200
    (pid,) = worker_pids(server, "parent")
    os.kill(pid, signal.SIGKILL)
    answer = predict(server, "parent")
    assert answer.status_code == 200
    assert answer.text != str(pid)
