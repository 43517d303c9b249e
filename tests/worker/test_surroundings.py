"""What a handler finds around it, in a worker of a real server (contract.md section 9.2)."""

from collections.abc import Iterator

import pytest

from flambeau.testing.echo import predict, register, worker_pids, write_model
from flambeau.testing.server import RunningServer, running_server

LOOK = """
import asyncio, logging, os, subprocess, sys
import beside

asyncio.get_event_loop()

def handle(data, context):
    if data is None:
        return None
    if context.get_request_header(0, "x-close"):
        sys.stdout.close()
        os.close(1)
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
