"""A server that is killed, and the one that starts after it (promises.md G12)."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

from flambeau.testing.echo import alive, free_ports, write_model
from flambeau.testing.waiting import wait_until
from tests.trust.mars import write_mar

_ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def started(folder: Path, base: str) -> Iterator[psutil.Process]:
    """`torchserve` with nothing but a store, in a folder with a config.properties."""
    command = [
        sys.executable, "-m", "flambeau.cli.torchserve", "--start", "--foreground",
        "--model-store", "store", "--disable-token-auth", "--enable-model-api",
    ]  # fmt: skip
    told = {"TMPDIR": str(folder), "FLAMBEAU_CACHE": str(folder / "cache")}
    with (folder / "output.log").open("ab") as output:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            env={**os.environ, "PYTHONPATH": str(_ROOT), **told},
        )  # fmt: skip
    try:
        wait_until(lambda: answers(base))
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def answers(base: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{base}/models").status_code == 200
    return False


def served(base: str) -> dict[str, tuple[str, int, int]]:
    """Default version, fewest and most workers of each model."""
    found = {}
    for each in httpx.get(f"{base}/models").json()["models"]:
        (model,) = httpx.get(f"{base}/models/{each['modelName']}").json()
        numbers = (model["minWorkers"], model["maxWorkers"])
        found[each["modelName"]] = (model["modelVersion"], *numbers)
    return found


def test_what_was_told_is_there_after_a_kill_and_what_cannot_be_is_named(tmp_path: Path) -> None:
    """Models, default versions and workers; one whose archive is gone is told, the others served.

    No process of the killed server is left."""
    base = f"http://127.0.0.1:{free_ports(1)[0]}"
    lines = [f"{api}_address={base}" for api in ("inference", "management", "metrics")]
    (tmp_path / "config.properties").write_text("\n".join([*lines, "preload=", ""]))
    store = tmp_path / "store"
    write_model(store, "one")
    write_model(store, "one", version="2.0")
    write_mar(store / "two.mar", "two")
    with started(tmp_path, base) as server, httpx.Client(base_url=base, timeout=60) as client:
        for url in ("one", "one-2.0", "two.mar"):
            query = {"url": url, "initial_workers": "1"}
            assert client.post("/models", params=query).status_code == 200
        assert client.put("/models/one/2.0/set-default").status_code == 200
        query = {"min_worker": "2", "max_worker": "3", "synchronous": "true"}
        assert client.put("/models/one/2.0", params=query).status_code == 200
        before = served(base)
        children = server.children(recursive=True)
        server.kill()
        wait_until(lambda: not any(alive(child.pid) for child in children), 20)
    assert before == {"one": ("2.0", 2, 3), "two": ("1.0", 1, 1)}
    (store / "two.mar").unlink()
    with started(tmp_path, base):
        wait_until(lambda: set(served(base)) == {"one"})
        assert served(base) == {"one": before["one"]}
        wait_until(lambda: httpx.post(f"{base}/predictions/one").status_code == 200)
    told = (tmp_path / "output.log").read_text()
    assert "Failed to restore model: two version 1.0: Model not found at: two.mar" in told
