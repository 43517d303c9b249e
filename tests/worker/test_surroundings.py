"""What a handler finds around it, in a worker of a real server (contract.md section 9.2)."""

import os
import signal
from collections.abc import Iterator

import pytest

from flambeau.testing.echo import predict, register, worker_pids, write_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until

LOOK = """
import asyncio, logging, os, signal, subprocess, sys
import beside

asyncio.get_event_loop()

def handle(data, context):
    if data is None:
        return None
    if context.get_request_header(0, "x-close"):
        sys.stdout.close()
        os.close(1)
    if fork := context.get_request_header(0, "x-fork"):
        pid = os.fork()
        if pid == 0 and fork == "exit":
            sys.exit(3)
        if pid == 0 and fork == "return":
            return ["from the child"]
        if pid == 0:
            logging.getLogger("child").warning("from the child")
            signal.pause()
        if fork != "stay":
            os.waitpid(pid, 0)
        return [str(pid)]
    child = subprocess.run([sys.executable, "-c", "import beside; print(beside.WORD)"],
                           cwd="/", capture_output=True, text=True)
    found = {
        "cwd": os.getcwd(),
        "model_dir": context.system_properties["model_dir"],
        "child": child.stdout.strip(),
        "level": logging.getLogger().getEffectiveLevel(),
        "pid": os.getpid(),
    }
    return [found] * len(data)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A model `look` with a module beside its handler."""
    store = tmp_path_factory.mktemp("store")
    (write_model(store, "look", LOOK) / "beside.py").write_text('WORD = "found"\n')
    with running_server(store, tmp_path_factory.mktemp("cache")) as running:
        assert register(running, "look").status_code == 200
        yield running


def test_the_model_is_where_the_worker_works(server: RunningServer) -> None:
    """Working directory and import path, also for Python processes that the handler starts."""
    found = predict(server, "look").json()
    assert found["cwd"] == found["model_dir"]
    assert found["child"] == "found"
    assert found["level"] == 20
    assert [found["pid"]] == worker_pids(server, "look")


def test_a_closed_stdout_is_no_end(server: RunningServer) -> None:
    """TorchServe watches the worker's stdout; here it is only a place to print to."""
    pids = worker_pids(server, "look")
    assert predict(server, "look", x_close="1").status_code == 200
    assert predict(server, "look").status_code == 200
    assert worker_pids(server, "look") == pids


@pytest.mark.parametrize("how", ["exit", "return"])
def test_a_process_that_the_handler_forks_is_no_worker(server: RunningServer, how: str) -> None:
    """It ends where it leaves the handler, and answers nothing in its parent's name."""
    pids = worker_pids(server, "look")
    for _ in range(3):
        answer = predict(server, "look", x_fork=how)
        assert (answer.status_code, answer.text.isdigit()) == (200, True), answer.text
        assert predict(server, "look").status_code == 200
    assert worker_pids(server, "look") == pids


def test_a_process_that_outlives_its_worker_keeps_nobody_waiting(server: RunningServer) -> None:
    """A forked process holds no connection to the server: the worker's end is seen at once."""
    child = int(predict(server, "look", x_fork="stay").text)
    try:
        (pid,) = worker_pids(server, "look")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: worker_pids(server, "look") not in ([], [pid]), 20)
        assert predict(server, "look").status_code == 200
    finally:
        os.kill(child, signal.SIGKILL)
