"""Models that are several processes (contract.md section 4.4), with torch.distributed on the CPU."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flambeau.testing.echo import children, describe, predict, register, worker_pids, write_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until

# Tells of each rank that took part in a batch; a header makes one of them fail.
TALKATIVE = """
import os, threading

def handle(data, context):
    if data is None:
        return None
    with open(os.path.join(os.environ["SEEN"], str(os.getpid())), "a") as file:
        file.write("batch ")
    failing = context.get_request_header(0, "x-rank")
    if failing and failing == os.environ.get("RANK"):
        os._exit(5)
    if failing:
        threading.Event().wait()
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR",
             "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    told = {name: os.environ.get(name) for name in names}
    told["gpu_id"] = context.system_properties["gpu_id"]
    return [told] * len(data)
"""

SUMS = """
import os
import torch
import torch.distributed as dist

def handle(data, context):
    if data is None:
        dist.init_process_group("gloo")
        return None
    answers = []
    for row in data:
        value = torch.tensor([float(row["body"]) * (dist.get_rank() + 1)])
        dist.all_reduce(value)
        answers.append(f"{value.item():g} of {dist.get_world_size()}")
    return answers
"""

FAILS_ON_ONE = """
import os
if os.environ["RANK"] == "1":
    raise OSError("no shard 1")
import threading
threading.Event().wait()
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("seen")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, seen: Path) -> Iterator[RunningServer]:
    store = tmp_path_factory.mktemp("store")
    two = {"nproc-per-node": 2, "OMP_NUMBER_THREADS": 3, "rdzv-backend": "c10d"}
    write_model(store, "tp", TALKATIVE, parallelType="tp", torchrun=two)
    write_model(store, "pp", TALKATIVE, parallelType="pp", torchrun=two)
    write_model(store, "custom", TALKATIVE, parallelType="custom", parallelLevel=2)
    write_model(store, "sums", SUMS, parallelType="tp", parallelLevel=3)
    write_model(store, "broken", FAILS_ON_ONE, parallelType="tp", parallelLevel=2)
    write_model(store, "nodes", parallelType="pp", torchrun={"nnodes": 2, "nproc-per-node": 2})
    write_model(store, "many", parallelType="pp", parallelLevel=4000)
    write_model(store, "unset", parallelLevel=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEEN", str(seen))
        with running_server(store, tmp_path_factory.mktemp("cache")) as running:
            yield running


@pytest.fixture(autouse=True)
def no_models(server: RunningServer, seen: Path) -> Iterator[None]:
    """Each test begins without models and without traces of batches."""
    yield
    for model in httpx.get(f"{server.management}/models").json()["models"]:
        httpx.delete(f"{server.management}/models/{model['modelName']}", timeout=60)
    for file in seen.iterdir():
        file.unlink()


def test_every_rank_predicts_and_rank_0_answers(server: RunningServer, seen: Path) -> None:
    """`tp`: each rank has torchrun's environment; the worker is one in describe."""
    assert register(server, "tp").status_code == 200
    answer = predict(server, "tp").json()
    assert answer == {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "OMP_NUM_THREADS": "3",
        "CUDA_VISIBLE_DEVICES": None,
        "gpu_id": None,
    }
    assert predict(server, "tp").status_code == 200
    wait_until(lambda: [file.read_text() for file in seen.iterdir()] == ["batch batch "] * 2)
    shown = describe(server, "tp")
    assert (shown["parallelType"], shown["parallelLevel"]) == ("tp", 2)
    (pid,) = worker_pids(server, "tp")
    assert (seen / str(pid)).exists()


def test_pipelines_predict_on_rank_0_alone(server: RunningServer, seen: Path) -> None:
    """`pp`: the other ranks get their share from rank 0, by the handler's own means."""
    assert register(server, "pp").status_code == 200
    assert predict(server, "pp").json()["RANK"] == "0"
    assert [file.name for file in seen.iterdir()] == [str(worker_pids(server, "pp")[0])]


@pytest.mark.slow
def test_ranks_compute_together(server: RunningServer) -> None:
    """A handler that calls `init_process_group` finds its peers: 2·(1 + 2 + 3) = 12."""
    assert register(server, "sums").status_code == 200
    assert predict(server, "sums", "2").text == "12 of 3"
    assert predict(server, "sums", "5").text == "30 of 3"


def test_the_end_of_one_rank_is_the_end_of_the_worker(server: RunningServer, seen: Path) -> None:
    """All ranks are replaced; no old one stays behind."""
    assert register(server, "tp").status_code == 200
    assert predict(server, "tp").status_code == 200
    wait_until(lambda: len(list(seen.iterdir())) == 2)
    old = {int(file.name) for file in seen.iterdir()}
    (first,) = worker_pids(server, "tp")
    os.kill(next(iter(old - {first})), signal.SIGKILL)
    assert predict(server, "tp").status_code == 200
    wait_until(lambda: len({int(file.name) for file in seen.iterdir()} - old) == 2)
    wait_until(lambda: not any(pid in children(os.getpid()) for pid in old))


def test_a_rank_that_dies_under_a_batch_is_the_worker_s_death(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Tried again once and alone, as with any worker; the log has the exit code of that rank."""
    assert register(server, "tp").status_code == 200
    answer = predict(server, "tp", x_rank="1")
    assert (answer.status_code, answer.json()["message"]) == (503, "Worker died.")
    assert len([line for line in caplog.messages if line.endswith("exit code 5")]) == 2
    assert predict(server, "tp").status_code == 200


def test_the_rank_that_cannot_load_is_told(server: RunningServer) -> None:
    """The others, which wait for it, are ended; the reason is the client's answer."""
    before = children(os.getpid())
    answer = register(server, "broken", startup_timeout=30)
    assert answer.status_code == 500
    assert "rank 1: OSError: no shard 1" in answer.json()["message"]
    wait_until(lambda: children(os.getpid()) <= before)


def test_custom_is_one_process_that_does_the_rest(server: RunningServer) -> None:
    """No rank is set; the handler starts what it needs."""
    assert register(server, "custom").status_code == 200
    answer = predict(server, "custom").json()
    assert (answer["RANK"], answer["WORLD_SIZE"], answer["gpu_id"]) == (None, None, None)
    assert describe(server, "custom")["parallelLevel"] == 2


def test_workers_with_ranks_are_numbered_apart(server: RunningServer) -> None:
    """From `initial_distribution_port` on, in steps of their level (section 3.1)."""
    assert register(server, "pp", initial_workers=2).status_code == 200
    workers = describe(server, "pp")["workers"]
    assert isinstance(workers, list)
    first, second = (int(worker["id"]) for worker in workers)
    assert first >= 29500
    assert second - first == 2


def test_what_one_machine_cannot_do_is_a_clear_error(server: RunningServer) -> None:
    """Several nodes, and more ranks than sense."""
    answer = register(server, "nodes")
    assert answer.status_code == 400
    assert "torchrun.nnodes is 2" in answer.json()["message"]
    answer = register(server, "many")
    assert answer.status_code == 400
    assert "parallelLevel is 4000" in answer.json()["message"]
    assert register(server, "unset").status_code == 200
    shown = describe(server, "unset")
    assert (shown["parallelType"], shown["parallelLevel"]) == ("", 0)
