"""What one bad text does to a native model's workers, and to those who share a pass with it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from flambeau.config import DEFAULT_PRELOAD
from flambeau.testing.echo import register, write_model
from flambeau.testing.models import tiny_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until
from tests.scheduling.crowd import Crowd, client

# A text's length in tokens says what happens to the pass that it is in.
HANDLER = """
import os, time
from flambeau.handlers.native import TransformersHandler

class Frail(TransformersHandler):
    def initialize(self, context):
        super().initialize(context)
        self.forward = self._model.engine.forward
        self._model.engine.forward = self.guarded

    def guarded(self, rows):
        lengths = [len(row) for row in rows]
        if 20 in lengths:
            open("held", "w").close()
            while not os.path.exists("let-go"):
                time.sleep(0.002)
        if 30 in lengths or 31 in lengths:
            with open("passes", "a") as file:
                file.write(f"{len(lengths)} ")
        if 30 in lengths:
            os._exit(9)
        if 31 in lengths:
            raise RuntimeError("CUDA error: device-side assert triggered")
        return self.forward(rows)
"""


def text(tokens: int) -> str:
    """A text of so many tokens, with the two that each gets."""
    return " ".join(["the"] * (tokens - 2))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def server(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Two models of one kind, `exits` and `spoils`, each with one worker."""
    for name in ("exits", "spoils"):
        folder = write_model(store, name, HANDLER)
        manifest = folder / "MAR-INF" / "MANIFEST.json"
        manifest.write_text(manifest.read_text().replace("handler.py:handle", "handler.py"))
        tiny_model(folder, "text-classification")
    with running_server(
        store, tmp_path_factory.mktemp("cache"), preload=DEFAULT_PRELOAD
    ) as running:
        for name in ("exits", "spoils"):
            assert register(running, name).status_code == 200
        yield running


@pytest.mark.parametrize(("model", "bad", "status"), [("exits", 30, 503), ("spoils", 31, 507)])
async def test_the_innocent_of_a_fatal_pass_are_answered(
    server: RunningServer, store: Path, model: str, bad: int, status: int
) -> None:
    """Texts share the pass that ends their worker: each runs again alone, on another worker.

    The guilty one ends that, too, gets its error, and is refused when it comes again.
    """
    folder = store / model
    async with client() as http:
        crowd = Crowd(server, model, http)
        first = crowd.send(text(20))
        await asyncio.to_thread(wait_until, (folder / "held").exists)
        good = [crowd.send(text(tokens)) for tokens in (28, 29, 32)]
        guilty = crowd.send(text(bad))
        await asyncio.to_thread(_wait_sent, server, model)
        (folder / "let-go").touch()
        assert (await first).status_code == 200
        assert [(await each).status_code for each in good] == [200, 200, 200]
        assert (await guilty).status_code == status
        assert (await crowd.send(text(bad))).status_code == 503
        assert (await crowd.send(text(28))).status_code == 200
    shared, alone = (folder / "passes").read_text().split()
    assert int(shared) > 1
    assert alone == "1"


def _wait_sent(server: RunningServer, model: str) -> None:
    """Wait until the worker has been sent all five requests."""
    batches = server.server.core.registry.get(model).batcher._running
    wait_until(lambda: sum(len(batch.entries) for batch in list(batches)) == 5)
