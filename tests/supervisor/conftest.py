"""A server of each test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from flambeau.testing.echo import (
    register,
    write_model,
)
from flambeau.testing.server import RunningServer, running_server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    """A server of this test's own, with the model `echo` registered."""
    store = tmp_path / "store"
    write_model(store, "echo")
    with running_server(store, tmp_path / "cache") as running:
        assert register(running, "echo").status_code == 200
        yield running
