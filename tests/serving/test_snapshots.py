"""Snapshots through a real server: what is written, and what a start restores (section 3.4)."""

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from flambeau.config import load_config, read_properties
from flambeau.serving.snapshots import newest_snapshot
from flambeau.testing.echo import describe, predict, register, write_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until

SAMPLE = Path(__file__).parent / "data" / "torchserve-snapshot.cfg"
SHOUT = "def shout(data, context):\n    return ['loud' for _ in data or []]\n"
Models = dict[str, dict[str, dict[str, object]]]


class Place:
    """A store, a cache and a log folder in which servers follow each other."""

    def __init__(self, root: Path) -> None:
        self.store, self.cache, self.logs = root / "store", root / "cache", root / "logs"
        self.store.mkdir()

    @contextmanager
    def server(self, **config: object) -> Iterator[RunningServer]:
        """A server that starts afresh, unless told otherwise."""
        settings: dict[str, object] = {"log_location": self.logs} | config
        with running_server(self.store, self.cache, **settings) as running:
            yield running

    @contextmanager
    def restarted(self, file: Path | None = None) -> Iterator[RunningServer]:
        """A server that goes on from a snapshot, the newest one by default."""
        file = file or newest_snapshot(self.logs / "config")[0]
        assert file is not None
        with self.server(model_snapshot=load_config(file, {}, {}).model_snapshot) as running:
            yield running

    def files(self, kind: str = "*") -> list[Path]:
        return sorted((self.logs / "config").glob(f"*-{kind}.cfg"))

    def newest(self) -> dict[str, object]:
        """The value of `model_snapshot` in the newest file."""
        return snapshot_of(self.files()[-1])

    def models(self) -> Models:
        found: Models = self.newest()["models"]  # type: ignore[assignment]  # JSON
        return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    write_model(made.store, "echo")
    return made


def snapshot_of(file: Path) -> dict[str, object]:
    document: dict[str, object] = json.loads(read_properties(file, {})["model_snapshot"])
    return document


def manage(server: RunningServer, method: str, path: str, **query: object) -> httpx.Response:
    parameters = {key: str(value) for key, value in query.items()}
    return httpx.request(method, f"{server.management}/models{path}", params=parameters, timeout=60)


def names(server: RunningServer) -> list[str]:
    return [each["modelName"] for each in manage(server, "GET", "").json()["models"]]


def test_every_change_is_written(place: Place) -> None:
    """One file after the start, one after each change, one at the stop, named by TorchServe's rule."""
    write_model(place.store, "echo", version="2.0")
    with place.server(load_models=("echo",), job_queue_size=7) as server:
        assert len(place.files("startup")) == 1
        changes = [
            ("POST", "", {"url": "echo-2.0", "initial_workers": 1}),
            ("PUT", "/echo/2.0", {"min_worker": 2, "synchronous": "true"}),
            ("PUT", "/echo/2.0/set-default", {}),
            ("DELETE", "/echo/1.0", {}),
        ]
        for count, (method, path, query) in enumerate(changes, 1):
            assert manage(server, method, path, **query).is_success
            assert len(place.files("snapshot")) == count
        manage(server, "GET", "/echo")
        manage(server, "DELETE", "/nobody")
        assert register(server, "no.mar").status_code == 404
        assert len(place.files()) == 1 + len(changes)
    (shutdown,) = place.files("shutdown")
    assert shutdown == place.files()[-1]
    assert all(re.fullmatch(r"\d{17}-[a-z]+\.cfg", file.name) for file in place.files())
    document = snapshot_of(shutdown)
    assert list(document) == ["name", "modelCount", "created", "models"]
    assert (document["name"], document["modelCount"]) == (shutdown.name, 1)
    (model,) = place.models()["echo"].values()
    assert list(place.models()["echo"]) == ["2.0"]
    assert list(model.items())[:9] == [
        ("defaultVersion", True), ("marName", "echo-2.0"), ("minWorkers", 2), ("maxWorkers", 2),
        ("batchSize", 1), ("maxBatchDelay", 100), ("responseTimeout", 120),
        ("startupTimeout", 120), ("runtimeType", "python"),
    ]  # fmt: skip
    properties = read_properties(shutdown, {})
    assert (properties["job_queue_size"], properties["load_models"]) == ("7", "echo")
    assert properties["model_store"] == str(place.store)


def test_a_restart_serves_what_was_served(place: Place) -> None:
    """Workers, batching, time-outs, default version, and the handler given at registration."""
    folder = write_model(
        place.store,
        "echo",
        version="2.0",
        batchSize=3,
        minWorkers=1,
        maxWorkers=1,
        responseTimeout=9,
    )
    (folder / "other.py").write_text(SHOUT)
    with place.server(load_models=("echo",)) as server:
        register(server, "echo-2.0", handler="other.py:shout", batch_size=5, max_batch_delay=7)
        manage(server, "PUT", "/echo/2.0", min_worker=2, max_worker=3, synchronous="true")
        manage(server, "PUT", "/echo/2.0/set-default")
        # What a worker says of its handler is there once it has loaded.
        wait_until(lambda: predict(server, "echo/1.0").status_code == 200)
        before = [describe(server, f"echo/{version}") for version in ("1.0", "2.0")]
    with place.restarted() as server:
        wait_until(lambda: predict(server, "echo/1.0").status_code == 200)
        wait_until(lambda: predict(server, "echo").status_code == 200)
        assert predict(server, "echo").text == "loud"
        after = [describe(server, f"echo/{version}") for version in ("1.0", "2.0")]
        assert describe(server, "echo")["modelVersion"] == "2.0"
        for old, new in zip(before, after, strict=True):
            changing = {"workers", "jobQueueStatus", "loadedAtStartup"}
            assert {k: v for k, v in new.items() if k not in changing} == {
                k: v for k, v in old.items() if k not in changing
            }
            assert new["loadedAtStartup"] is False
        assert before[0]["loadedAtStartup"] is True


def test_no_batch_size_is_not_a_choice(place: Place) -> None:
    """Where nobody chose one, the handler's own default counts after a restart, too."""
    with place.server(load_models=("echo",)):
        pass
    assert place.models()["echo"]["1.0"]["batchSize"] == 1
    assert place.models()["echo"]["1.0"]["batchSizeOpen"] is True
    with place.restarted() as server:
        assert server.server.core.registry.get("echo").options.batch_size == 0


def test_a_missing_archive_harms_no_other_model(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told, stays written down, and is served again once it is back; TorchServe exits."""
    away = write_model(place.store, "away")
    with place.server(load_models=("away", "echo")):
        pass
    hidden = away.rename(place.store.parent / "away")
    with caplog.at_level(logging.WARNING), place.restarted() as server:
        assert names(server) == ["echo"]
    told = "Failed to restore model: away version 1.0: Model not found at: away"
    assert told in caplog.messages
    assert place.newest()["modelCount"] == 1
    hidden.rename(away)
    with place.restarted() as server:
        assert names(server) == ["away", "echo"]
    assert "notRestored" not in place.newest()


def test_a_missing_model_can_be_given_up(place: Place) -> None:
    """Unregistering it answers 404, and no later start looks for it."""
    away = write_model(place.store, "away")
    with place.server(load_models=("away", "echo")):
        pass
    away.rename(place.store.parent / "away")
    with place.restarted() as server:
        assert "notRestored" in place.newest()
        assert manage(server, "DELETE", "/away").status_code == 404
        assert "notRestored" not in place.newest()


def test_torchserve_s_snapshot(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """One of another host: its Java escapes are read, its paths and interpreter do no harm."""
    write_model(place.store, "echo", version="2.0")
    config = load_config(SAMPLE, {"model_store": place.store}, {})
    assert config.model_store == place.store
    assert config.metrics_config is None
    assert (config.inference_address.port, config.job_queue_size) == (8085, 17)
    with caplog.at_level(logging.WARNING), place.restarted(SAMPLE) as server:
        wait_until(lambda: predict(server, "echo/1.0").status_code == 200)
        first, second = (describe(server, f"echo/{version}") for version in ("1.0", "2.0"))
        assert describe(server, "echo")["modelVersion"] == "2.0"
        assert (first["minWorkers"], first["maxWorkers"], first["batchSize"]) == (1, 3, 4)
        assert (first["maxBatchDelay"], first["responseTimeout"]) == (50, 77)
        assert (first["startupTimeout"], second["workers"]) == (66, [])
        assert names(server) == ["echo"]
    assert "Failed to restore model: gone version 1.0: Model not found at: gone.mar" in (
        caplog.messages
    )


@pytest.mark.parametrize(
    ("snapshot", "told"),
    [
        ({"models": [1]}, "no model is restored"),
        ({"models": {"echo": {"1.0": {"marName": "echo"}}}}, "echo version 1.0: "),
        ({"models": {"a b": {"1.0": {"defaultVersion": True, "marName": "echo", "minWorkers": 1,
            "maxWorkers": 1, "batchSize": 1, "maxBatchDelay": 1}}}}, "model name 'a b'"),
    ],
)  # fmt: skip
def test_a_snapshot_that_makes_no_sense(
    place: Place, caplog: pytest.LogCaptureFixture, snapshot: dict[str, object], told: str
) -> None:
    """The server starts and says what it could not restore."""
    with caplog.at_level(logging.WARNING), place.server(model_snapshot=snapshot) as server:
        assert names(server) == []
    assert told in caplog.text


def test_numbers_as_texts(place: Place) -> None:
    """As some templates write them; the archive says its version, as in TorchServe."""
    saved = {"defaultVersion": "true", "marName": "echo", "minWorkers": "1", "maxWorkers": "2",
             "batchSize": "3", "maxBatchDelay": "4", "responseTimeout": None}  # fmt: skip
    with place.server(model_snapshot={"models": {"named": {"9": saved}}}) as server:
        model = describe(server, "named")
    assert (model["modelVersion"], model["maxWorkers"], model["batchSize"]) == ("1.0", 2, 3)
    assert model["responseTimeout"] == 120


def test_a_torn_snapshot_is_never_used(place: Place) -> None:
    """Cut at any length or changed by hand, the newest is skipped, and the one before is taken."""
    with place.server(load_models=("echo",)):
        pass
    folder = place.logs / "config"
    whole = place.files()[-1]
    data = whole.read_bytes()
    torn = folder / "29991231235959999-snapshot.cfg"
    for length in range(0, len(data) - 1, 7):
        torn.write_bytes(data[:length])
        found, notes = newest_snapshot(folder)
        assert found == whole
        assert notes
        assert str(torn) in notes[0]
    torn.write_bytes(data.replace(b'"minWorkers"\\: 1', b'"minWorkers"\\: 9'))
    assert newest_snapshot(folder)[0] == whole
    torn.write_bytes(SAMPLE.read_bytes()[:-40])
    assert newest_snapshot(folder)[0] == whole
    torn.write_bytes(SAMPLE.read_bytes())
    assert newest_snapshot(folder) == (torn, [])
    (folder / "notes.txt").touch()
    (folder / "1-snapshot.cfg").touch()
    assert newest_snapshot(folder) == (torn, [])
    with place.server(load_models=("echo",)):
        pass
    assert newest_snapshot(folder)[0] not in (torn, whole)  # later than a name of the future


def test_old_snapshots_are_removed(place: Place) -> None:
    """Of each kind so many stay; TorchServe's own are let be. 0 keeps all, as TorchServe does."""
    folder = place.logs / "config"
    folder.mkdir(parents=True)
    theirs = folder / "20200101000000000-snapshot.cfg"
    theirs.write_bytes(SAMPLE.read_bytes())
    for kept, expected in ((2, 3), (0, 8)):
        with place.server(load_models=("echo",), snapshots_kept=kept) as server:
            for _ in range(5):
                manage(server, "PUT", "/echo/1.0/set-default")
        assert len(place.files("snapshot")) == expected
        assert theirs in place.files("snapshot")


def test_a_folder_that_cannot_be_written_only_warns(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """Models are registered and served as if nothing was."""
    place.logs.touch()
    with place.server() as server:
        assert register(server, "echo").status_code == 200
        assert predict(server, "echo").status_code == 200
    assert caplog.text.count("Error while saving a snapshot") == 1


def test_nothing_is_written_without_a_log_folder_or_when_it_is_off(place: Place) -> None:
    """`--ncs`; and servers without log files, such as `flambeau serve`'s."""
    with place.server(no_config_snapshots=True):
        pass
    with running_server(place.store, place.cache):
        pass
    assert not place.logs.exists()


def test_a_snapshot_is_private(place: Place) -> None:
    """It may hold the keystore's password."""
    with place.server():
        pass
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in place.files())
