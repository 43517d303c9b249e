"""A worker has no more memory than it may have: over it, its request is a 507 and nobody else's (G6)."""

import itertools
from pathlib import Path

import pytest

from flambeau.supervisor import process
from flambeau.testing.echo import predict, register, worker_pids, write_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until

LIMIT = 700 * 2**20

# Makes an array as large as it is told to, or takes all that there is.
GREEDY = """
def handle(data, context):
    if data is None:
        return None
    wanted = int(bytes(data[0]["body"]))
    if wanted:
        return [str(len(bytearray(wanted)))]
    taken = []
    while True:
        taken.append(bytearray(2**20))
"""
# Keeps all memory for good, so that the threads of the worker have none.
SWALLOWS = """
kept = []

def handle(data, context):
    for size in (2**20, 2**12, 2**6) if data is not None else ():
        try:
            while True:
                kept.append(bytearray(size))
        except MemoryError:
            pass
    return ["x" * 2**20] * len(data or [])
"""
KILLED = """
import os, signal

def handle(data, context):
    if data is not None:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_request_over_the_limit_is_a_507_of_its_own(
    server: RunningServer, tmp_path: Path
) -> None:
    """One large array, or a storm of small ones; what is below the limit is answered."""
    write_model(tmp_path / "store", "greedy", GREEDY, memoryLimit=LIMIT)
    assert register(server, "greedy").status_code == 200
    assert predict(server, "greedy", str(2**28)).text == str(2**28)
    for wanted in (2 * LIMIT, 0):
        refused = predict(server, "greedy", str(wanted))
        assert refused.status_code == 507
        assert refused.json()["message"].startswith("Out of resources")
    assert predict(server, "greedy", str(2**28)).text == str(2**28)
    assert predict(server, "echo").status_code == 200


def test_a_worker_without_any_memory_left_is_replaced(
    server: RunningServer, tmp_path: Path
) -> None:
    """A leak: it would answer no other request. The client hears why, as of a single large one."""
    write_model(tmp_path / "store", "swallows", SWALLOWS, memoryLimit=LIMIT)
    assert register(server, "swallows").status_code == 200
    pids = worker_pids(server, "swallows")
    answer = predict(server, "swallows")
    assert answer.status_code == 507
    assert answer.json()["message"].startswith("Out of resources")
    assert predict(server, "echo").status_code == 200
    wait_until(lambda: worker_pids(server, "swallows") not in ([], pids))


def test_the_server_s_limit_is_that_of_models_without_one_of_their_own(tmp_path: Path) -> None:
    """`worker_memory_limit`; a model's own `memoryLimit` wins, and 0 lifts it."""
    write_model(tmp_path / "store", "ours", GREEDY)
    write_model(tmp_path / "store", "free", GREEDY, memoryLimit=0)
    with running_server(
        tmp_path / "store", tmp_path / "cache", worker_memory_limit=LIMIT
    ) as server:
        for name, status in (("ours", 507), ("free", 200)):
            assert register(server, name).status_code == 200
            assert predict(server, name, str(LIMIT)).status_code == status


def test_a_limit_below_what_the_model_needs_fails_its_load(
    server: RunningServer, tmp_path: Path
) -> None:
    """With the reason, and nothing else."""
    source = "kept = bytearray(2**30)\n" + GREEDY
    write_model(tmp_path / "store", "large", source, memoryLimit=LIMIT)
    answer = register(server, "large")
    assert answer.status_code == 507
    assert "MemoryError" in answer.json()["message"]
    assert predict(server, "echo").status_code == 200


def test_a_worker_that_the_oom_killer_ended_is_a_507(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A SIGKILL that we did not send, while the kernel counts one more; any other one is a 503."""
    write_model(tmp_path / "store", "killed", KILLED)
    assert register(server, "killed").status_code == 200
    assert predict(server, "killed", "one").status_code == 503
    counts = itertools.count(process.oom_kills() + 1)
    monkeypatch.setattr(process, "oom_kills", lambda: next(counts))
    assert predict(server, "killed", "another").status_code == 507
