"""A disk that is full, read-only or broken: models are served on, changes say what is wrong."""

import json
from pathlib import Path

import httpx
import pytest

from flambeau.serving import management
from flambeau.testing.echo import predict, register, write_model
from flambeau.testing.server import running_server
from flambeau.testing.waiting import wait_until
from tests.trust.mars import write_mar


def test_a_cache_that_cannot_be_written_is_a_507_until_it_can(tmp_path: Path) -> None:
    """The answer names the archive, the folder and the reason; served models do not notice."""
    store, cache = tmp_path / "store", tmp_path / "cache"
    write_model(store, "one")
    write_mar(store / "two.mar", "two")
    cache.mkdir()
    with running_server(store, cache, load_models=("one",)) as server:
        wait_until(lambda: predict(server, "one").status_code == 200)
        (cache / "archives").write_text("no folder")
        refused = register(server, "two.mar")
        assert refused.status_code == 507
        assert refused.json()["type"] == "InsufficientStorageException"
        told = refused.json()["message"]
        assert told.startswith(f"two.mar cannot be unpacked into {cache / 'archives'}: ")
        assert predict(server, "one").status_code == 200
        assert predict(server, "two").status_code == 404
        (cache / "archives").unlink()
        assert register(server, "two.mar").status_code == 200


def test_a_snapshot_that_could_not_be_written_is_written_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change itself holds; a counter tells of the failure; no other change is needed."""
    monkeypatch.setattr(management, "_SAVE_AGAIN_SECONDS", 0.05)
    store, logs = tmp_path / "store", tmp_path / "logs"
    write_model(store, "one")
    logs.mkdir()
    (logs / "config").write_text("no folder")
    with running_server(store, tmp_path / "cache", log_location=logs) as server:
        assert register(server, "one").status_code == 200
        assert predict(server, "one").status_code == 200
        name = "flambeau_snapshot_failures_total"
        metrics = httpx.get(f"{server.metrics}/metrics", params={"name[]": name}).text
        assert float(metrics.split()[-1]) >= 1
        (logs / "config").unlink()
        wait_until(lambda: any((logs / "config").glob("*-snapshot.cfg")))
        newest = max((logs / "config").glob("*-snapshot.cfg")).read_text()
        assert json.dumps("one") in newest.replace("\\", "")
