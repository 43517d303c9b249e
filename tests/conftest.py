"""What tests of the server share."""

import signal
from collections.abc import Iterator
from pathlib import Path

import httpx._config
import pytest

from flambeau.testing.echo import Gate, register, write_model
from flambeau.testing.server import RunningServer, running_server

# Calls that name no time-out wait for longer than httpx's 5 s: a loaded machine is no failure.
_patience = httpx._config.DEFAULT_TIMEOUT_CONFIG
_patience.connect = _patience.read = _patience.write = _patience.pool = 60

# A run in the background of a script, or under nohup, ignores these, and so would every process
# that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """A gate of this test's own, opened at its end at the latest."""
    closed = Gate(tmp_path / "gate")
    yield closed
    closed.open()


@pytest.fixture(scope="module")
def echo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with one worker of the model `echo`, shared by a module's tests."""
    store = tmp_path_factory.mktemp("store")
    write_model(store, "echo")
    with running_server(
        store, tmp_path_factory.mktemp("cache"), max_request_size=100_000
    ) as server:
        assert register(server, "echo").status_code == 200
        yield server
