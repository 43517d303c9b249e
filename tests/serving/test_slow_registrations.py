"""Registrations that take long hold nobody else up."""

import concurrent.futures
import fcntl
import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flambeau.testing.echo import describe, predict, register, scale, write_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    store = tmp_path_factory.mktemp("store")
    write_model(store, "one")
    with running_server(store, tmp_path_factory.mktemp("cache")) as running:
        yield running


def test_a_long_yaml_holds_nobody_else_up(server: RunningServer, tmp_path: Path) -> None:
    """Pings are answered while a yaml of 30,000 lines is parsed, off the event loop."""
    folder = write_model(tmp_path, "long-yaml", batchSize=1)
    text = "".join(f"key{number}: value\n" for number in range(30_000))
    (folder / "model-config.yaml").write_text(text + "batchSize: 5\n")
    store = Path(str(server.server.config.model_store))
    folder.rename(store / "long-yaml")
    with concurrent.futures.ThreadPoolExecutor(1) as pool, httpx.Client() as client:
        registering = pool.submit(register, server, "long-yaml", initial_workers=0)
        answered = 0
        while not registering.done():
            client.get(f"{server.inference}/ping")
            answered += 1
        assert registering.result().status_code == 200
    assert answered > 4, "on the event loop, it would have let one or two by"
    assert describe(server, "long-yaml")["batchSize"] == 5


def test_an_archive_that_takes_long_holds_no_other_change_up(
    server: RunningServer, tmp_path: Path
) -> None:
    """While one is being unpacked (here: waits for its lock), others register and unregister."""
    archive = Path(str(server.server.config.model_store)) / "waits.mar"
    with zipfile.ZipFile(archive, "w") as file:
        folder = write_model(tmp_path, "waits")
        for path in folder.rglob("*.*"):
            file.write(path, str(path.relative_to(folder)))
    cache = server.server.config.cache_dir / "archives"
    cache.mkdir(exist_ok=True)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with (cache / f".{digest}.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            slow = pool.submit(register, server, "waits.mar")
            assert register(server, "one").status_code == 200
            assert httpx.delete(f"{server.management}/models/one").status_code == 200
            assert not slow.done()
        assert slow.result().status_code == 200
    assert predict(server, "waits").status_code == 200


def test_who_waits_for_a_model_that_is_unregistered_is_told_so(
    server: RunningServer, tmp_path: Path
) -> None:
    """409: it was there, and a request has taken it out. The change of another is no error of ours."""
    gate = tmp_path / "gate"
    source = f"""
import os, time
while not os.path.exists({str(gate)!r}):
    time.sleep(0.005)
def handle(data, context):
    return ["" for _ in data or []]
"""
    write_model(Path(str(server.server.config.model_store)), "loads-long", source)
    assert register(server, "loads-long", initial_workers=0).status_code == 200
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(scale, server, "loads-long", 1)
        wait_until(lambda: describe(server, "loads-long")["minWorkers"] == 1)
        assert httpx.delete(f"{server.management}/models/loads-long").status_code == 200
        told = waiting.result(30)
        gate.touch()
    assert told.status_code == 409
    assert "it was taken out of service while it was loading" in told.json()["message"]
