"""The policy on signatures in a real server (promises.md G32)."""

import json
import logging
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typing_extensions import override

from flambeau.archive.admission import Policy, Signature
from flambeau.archive.keys import read_signing_key
from flambeau.archive.signing import sign
from flambeau.archive.store import ModelStore
from flambeau.errors import ArchiveError, ConfigError
from flambeau.testing.echo import describe, register, write_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.signing import KeyFiles, make_key

HANDLER = "def handle(data, context):\n    return ['{}' for _ in data or []]\n"


def write_mar(path: Path, name: str, says: str = "hello") -> Path:
    """An archive with a handler of its own."""
    manifest = {"model": {"modelName": name, "modelVersion": "1.0", "handler": "h.py:handle"}}
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        file.writestr("h.py", HANDLER.format(says))
    return path


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> KeyFiles:
    return make_key(tmp_path_factory.mktemp("keys"), "release")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, key: KeyFiles) -> Iterator[RunningServer]:
    """One that requires signatures."""
    store = tmp_path_factory.mktemp("store")
    with running_server(
        store, tmp_path_factory.mktemp("cache"), require_signed="require", trusted_keys=key.public
    ) as running:
        yield running


def store_of(server: RunningServer) -> Path:
    store = server.server.config.model_store
    assert store is not None
    return store


def predict(server: RunningServer, name: str) -> str:
    return httpx.post(f"{server.inference}/predictions/{name}", content=b"", timeout=60).text


def test_a_signed_archive_is_served_and_described(server: RunningServer, key: KeyFiles) -> None:
    """The description has the digest and who signed."""
    archive = write_mar(store_of(server) / "good.mar", "good")
    sign(archive, read_signing_key(key.private))
    assert register(server, "good.mar").status_code == 200
    assert predict(server, "good") == "hello"
    told = describe(server, "good")["archive"]
    assert isinstance(told, dict)
    assert len(told.pop("sha256")) == 64
    assert told.pop("signer").startswith("key release.pub")
    assert told == {"signature": "verified"}


def test_a_signed_folder_is_served_from_a_copy(server: RunningServer, key: KeyFiles) -> None:
    """What is written into the folder afterwards reaches no worker."""
    folder = write_model(store_of(server), "copied", HANDLER.format("signed"))
    sign(folder, read_signing_key(key.private))
    assert register(server, "copied").status_code == 200
    (folder / "handler.py").write_text(HANDLER.format("forged"))
    query = {"min_worker": "2", "synchronous": "true"}
    httpx.put(f"{server.management}/models/copied", params=query, timeout=60).raise_for_status()
    assert {predict(server, "copied") for _ in range(8)} == {"signed"}


def test_unsigned_altered_and_foreign_models_are_refused(
    server: RunningServer, tmp_path: Path, key: KeyFiles
) -> None:
    """403 with the reason; an archive that is none is refused for the same, it is never parsed."""
    store = store_of(server)
    signing = read_signing_key(key.private)
    altered = write_mar(store / "altered.mar", "altered")
    sign(altered, signing)
    write_mar(altered, "altered", "evil")
    foreign = write_mar(store / "foreign.mar", "foreign")
    sign(foreign, read_signing_key(make_key(tmp_path, "stranger").private))
    write_mar(store / "unsigned.mar", "unsigned")
    (store / "broken.mar").write_bytes(b"PK\3\4 no archive at all")
    write_model(store, "folder")
    added = write_model(store, "added")
    sign(added, signing)
    (added / "more.py").write_text("")
    for name, reason in (
        ("altered.mar", "it was altered"),
        ("foreign.mar", "is not in trusted_keys"),
        ("unsigned.mar", "there is no unsigned.mar.sig beside it"),
        ("broken.mar", "there is no broken.mar.sig beside it"),
        ("folder", "there is no model.sig beside it"),
        ("added", "'more.py' is not signed"),
    ):
        answer = register(server, name)
        assert (answer.status_code, answer.json()["type"]) == (403, "UntrustedModelException")
        assert answer.json()["message"].startswith(f"{name}: not trusted (require_signed)")
        assert reason in answer.json()["message"]


def test_one_line_for_each_archive_with_unsigned_code(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By default an unsigned handler is served and told of; a stock handler has no code to sign."""
    store = tmp_path / "store"
    store.mkdir()
    write_mar(store / "own.mar", "own")
    with zipfile.ZipFile(store / "stock.mar", "w") as file:
        model = {"modelName": "stock", "handler": "text_classifier"}
        file.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": model}))
    caplog.set_level(logging.INFO)
    with running_server(store, tmp_path / "cache") as running:
        for name in ("own.mar", "stock.mar"):
            assert register(running, name, initial_workers=0).status_code == 200
    lines = [each for each in caplog.records if "sha256" in each.getMessage()]
    assert [each.levelname for each in lines] == ["WARNING", "INFO"]
    assert (
        "own.mar is served though its code is not signed (require_signed=warn" in lines[0].message
    )


def _signed_archive(folder: Path, key: KeyFiles) -> tuple[ModelStore, Path]:
    """A store that wants signatures, and a signed archive in it."""
    root = folder / "store"
    root.mkdir()
    archive = write_mar(root / "m.mar", "m")
    sign(archive, read_signing_key(key.private))
    return ModelStore(root, folder / "cache", policy=Policy("require", key.public)), archive


def test_a_changed_cache_is_not_served(tmp_path: Path, key: KeyFiles) -> None:
    """Where signatures count, what lies unpacked is made anew from what was verified."""
    store, archive = _signed_archive(tmp_path, key)
    opened = store.open(archive)
    store.release(opened)
    handler = opened.model_dir / "h.py"
    handler.write_text(handler.read_text().replace("hello", "hellO"))
    (opened.model_dir / "json.py").write_text("evil = True")
    again = store.open(archive).model_dir
    assert "hello" in (again / "h.py").read_text()
    assert sorted(os.listdir(again)) == ["MAR-INF", "h.py"]


def test_a_model_in_use_keeps_its_files(tmp_path: Path, key: KeyFiles) -> None:
    """Another registration of the archive verifies it, and leaves what a handler has written."""
    store, archive = _signed_archive(tmp_path, key)
    opened = store.open(archive)
    before = opened.model_dir.stat()
    (opened.model_dir / "written.txt").touch()
    again = store.open(archive)
    assert os.path.samestat(again.model_dir.stat(), before)
    assert (opened.model_dir / "written.txt").exists()
    store.release(again)
    assert os.path.samestat(store.open(archive).model_dir.stat(), before)


def test_an_archive_that_changes_while_it_is_read_is_never_unpacked(
    tmp_path: Path, key: KeyFiles
) -> None:
    """What was verified is what is unpacked, even if the file gets its old times back."""
    root = tmp_path / "store"
    root.mkdir()
    archive = write_mar(root / "m.mar", "m", "hello")
    sign(archive, read_signing_key(key.private))
    good, times = archive.read_bytes(), archive.stat()

    class Changing(Policy, frozen=True):
        """Writes to the archive right after its signature was judged."""

        @override
        def judge_archive(self, path: Path, name: str, digest: str) -> Signature:
            signature = super().judge_archive(path, name, digest)
            with archive.open("r+b") as file:
                file.write(good.replace(b"hello", b"hellO"))
            os.utime(archive, ns=(times.st_atime_ns, times.st_mtime_ns))
            return signature

    store = ModelStore(root, tmp_path / "cache", policy=Changing("require", key.public))
    assert "hello" in (store.open(archive).model_dir / "h.py").read_text()
    with pytest.raises(ArchiveError, match="it was altered"):
        store.open(archive)


def test_a_policy_that_cannot_work_ends_the_start(tmp_path: Path) -> None:
    """Not the first registration."""
    with (
        pytest.raises(ConfigError, match="without trusted_keys"),
        running_server(tmp_path, tmp_path / "cache", require_signed="require"),
    ):
        pass


def test_a_restored_archive_must_be_the_one_of_the_snapshot(tmp_path: Path, key: KeyFiles) -> None:
    """Where signatures are required, one that was exchanged is refused even if it is signed."""
    store = tmp_path / "store"
    store.mkdir()
    archive = write_mar(store / "m.mar", "m")
    sign(archive, read_signing_key(key.private))
    saved = {
        "defaultVersion": True, "marName": "m.mar", "minWorkers": 0, "maxWorkers": 0,
        "batchSize": 1, "maxBatchDelay": 100, "sha256": "0" * 64,
    }  # fmt: skip
    snapshot = {"models": {"m": {"1.0": saved}}}
    for mode, status in (("require", 404), ("warn", 200)):
        with running_server(
            store, tmp_path / "cache",
            require_signed=mode, trusted_keys=key.public, model_snapshot=snapshot,
        ) as running:  # fmt: skip
            answer = httpx.get(f"{running.management}/models/m", timeout=60)
            assert answer.status_code == status
