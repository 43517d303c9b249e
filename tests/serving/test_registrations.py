"""What may be registered, and that changes of one model never mix (contract.md 1.4, 1.6, 6.4, 6.7)."""

import json
import os
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from flambeau.testing.echo import (
    ECHO,
    Gate,
    children,
    describe,
    predict,
    register,
    write_model,
)
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until

Failure = tuple[int, str, str]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    store = tmp_path_factory.mktemp("store")
    for version in ("1.0", "2.0"):
        write_model(store, "echo", version=version)
    write_model(store, "fails", "raise ValueError('bad')")
    with running_server(store, tmp_path_factory.mktemp("cache")) as running:
        yield running


def store_of(server: RunningServer) -> Path:
    store = server.server.config.model_store
    assert store is not None
    return store


def models(server: RunningServer, method: str, path: str = "", **query: str) -> httpx.Response:
    return httpx.request(method, f"{server.management}/models{path}", params=query, timeout=60)


def failure(answer: httpx.Response) -> Failure:
    document = answer.json()
    return answer.status_code, document["type"], document["message"]


def write_archive(server: RunningServer, name: str, manifest: object) -> str:
    """Write an archive into the store; a text is the manifest as it is, None is none."""
    with zipfile.ZipFile(store_of(server) / name, "w") as file:
        file.writestr("handler.py", ECHO)
        if manifest is not None:
            text = manifest if isinstance(manifest, str) else json.dumps(manifest)
            file.writestr("MAR-INF/MANIFEST.json", text)
    return name


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"runtime": "python"}, "Missing Model entry in manifest file."),
        ({"model": {"modelVersion": "1.0"}}, "Model name is not defined."),
        (None, "Model name is not defined."),
        ({"runtime": "java", "model": {"modelName": "m"}}, "Runtime is not defined or invalid."),
    ],
)
def test_manifests_that_lack_something(
    server: RunningServer, manifest: object, message: str
) -> None:
    """400 in TorchServe's words (section 1.4)."""
    url = write_archive(server, "lacking.mar", manifest)
    assert failure(models(server, "POST", url=url)) == (400, "InvalidModelException", message)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("{", "lacking.mar: MAR-INF/MANIFEST.json is not valid JSON"),
        ({"runtime": "LSP", "model": {"modelName": "m"}}, "C++ workers) is not supported"),
    ],
)
def test_manifests_that_cannot_be_used(
    server: RunningServer, manifest: object, message: str
) -> None:
    """400 with the reason; TorchServe blamed a `signature.json`, or failed at the first worker."""
    url = write_archive(server, "lacking.mar", manifest)
    status, kind, text = failure(models(server, "POST", url=url))
    assert (status, kind) == (400, "InvalidModelException")
    assert message in text


def test_what_is_no_archive(server: RunningServer) -> None:
    """400 that says so; TorchServe took it for an empty archive without a name."""
    (store_of(server) / "text.mar").write_text("just a text")
    status, kind, text = failure(models(server, "POST", url="text.mar", model_name="named"))
    assert (status, kind) == (400, "InvalidModelException")
    assert "text.mar: it is not a zip archive" in text


def test_an_archive_without_manifest_can_be_given_what_it_lacks(server: RunningServer) -> None:
    """Name and handler at registration; the version is 1.0 and the runtime python."""
    write_archive(server, "bare.mar", None)
    query = {"url": "bare.mar", "model_name": "bare", "handler": "handler.py:handle"}
    assert models(server, "POST", initial_workers="1", **query).status_code == 200
    assert predict(server, "bare").status_code == 200
    document = describe(server, "bare")
    assert (document["modelVersion"], document["runtime"]) == ("1.0", "python")


def test_an_old_manifest(server: RunningServer) -> None:
    """Without `createdOn` and `archiverVersion`, with keys that nobody reads any more."""
    manifest = {
        "specificationVersion": "1.0", "implementationVersion": "1.0", "modelServerVersion": "1.0",
        "model": {"modelName": "old", "modelVersion": "0.9", "handler": "handler.py:handle",
                  "description": "x", "version": "7", "envelope": "json"},
    }  # fmt: skip
    write_archive(server, "old.mar", manifest)
    assert register(server, "old.mar").status_code == 200
    assert predict(server, "old", b"3", content_type="application/json").status_code == 200
    assert describe(server, "old")["modelVersion"] == "0.9"


def test_the_runtime_can_be_given(server: RunningServer) -> None:
    """`python3` is the same interpreter here; what is none is refused (section 6.4)."""
    assert models(server, "POST", url="echo", model_name="three", runtime="python3").is_success
    assert describe(server, "three")["runtime"] == "python3"
    answer = models(server, "POST", url="echo", model_name="foo", runtime="foo")
    assert failure(answer) == (400, "BadRequestException", "Invalid RuntimeType value: foo")


def test_a_folder_in_a_folder(server: RunningServer, tmp_path: Path) -> None:
    """SageMaker's layout: the only child is the model."""
    folder = write_model(tmp_path, "inner")
    (store_of(server) / "outer").mkdir()
    folder.rename(store_of(server) / "outer" / "inner")
    assert register(server, "outer").status_code == 200
    assert predict(server, "inner").status_code == 200


def test_a_failed_registration_leaves_nothing(server: RunningServer) -> None:
    """500 with the reason, no model and no process; TorchServe often kept the model."""
    before = children(os.getpid())
    status, kind, text = failure(register(server, "fails", initial_workers=2))
    assert (status, kind) == (500, "InternalServerException")
    assert text.startswith("Failed to start workers for model fails version: 1.0")
    assert models(server, "GET", "/fails").status_code == 404
    wait_until(lambda: children(os.getpid()) <= before)


def test_of_many_registrations_of_one_name_one_wins(server: RunningServer) -> None:
    """The others get a 409, and the winner serves."""
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: register(server, "echo", model_name="one"), range(6)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 5
    assert predict(server, "one").status_code == 200
    assert len(describe(server, "one")["workers"]) == 1  # type: ignore[arg-type]  # JSON


def test_registering_and_unregistering_at_once(server: RunningServer) -> None:
    """Whatever the order, every answer is one of the known ones and the end is clean (G15)."""

    def change(number: int) -> int:
        if number % 2:
            return models(server, "DELETE", "/storm").status_code
        return register(server, "echo", model_name="storm").status_code

    with ThreadPoolExecutor(4) as pool:
        statuses = set(pool.map(change, range(16)))
    assert statuses <= {200, 404, 409, 500}  # 500: taken out while it was loading
    models(server, "DELETE", "/storm")
    assert models(server, "GET", "/storm").status_code == 404
    assert register(server, "echo", model_name="storm").status_code == 200
    assert predict(server, "storm").status_code == 200


def test_unregistering_waits_for_what_was_accepted(server: RunningServer, gate: Gate) -> None:
    """200 for both; the archive stays (TorchServe answered 500, or never)."""
    register(server, "echo", model_name="busy")
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(predict, server, "busy", **gate.headers)
        gate.wait_entered()
        removed = pool.submit(models, server, "DELETE", "/busy")
        wait_until(lambda: models(server, "GET", "/busy").status_code == 404)
        assert not removed.done()
        gate.open()
        assert asked.result().status_code == 200
        assert removed.result().json() == {"status": 'Model "busy" unregistered'}
    assert (store_of(server) / "echo").is_dir()


def test_unregistering_has_a_limit(tmp_path: Path, gate: Gate) -> None:
    """408 in TorchServe's words after `unregister_model_timeout`; the model is gone all the same."""
    write_model(tmp_path / "store", "echo")
    with running_server(
        tmp_path / "store", tmp_path / "cache", unregister_model_timeout=0.3
    ) as server:
        register(server, "echo")
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(predict, server, "echo", **gate.headers)
            gate.wait_entered()
            assert failure(models(server, "DELETE", "/echo")) == (
                408, "RequestTimeoutException", "Timed out while cleaning resources: echo",
            )  # fmt: skip
            assert asked.result().status_code >= 500
        assert models(server, "GET", "/echo").status_code == 404
        assert register(server, "echo").status_code == 200


def test_a_version_is_swapped_without_a_failed_request(server: RunningServer) -> None:
    """Register the second, make it the default, unregister the first, under load (G14)."""
    assert register(server, "echo").status_code == 200
    statuses: list[int] = []
    done = threading.Event()

    def ask() -> None:
        with httpx.Client() as client:
            while not done.is_set():
                answer = client.post(f"{server.inference}/predictions/echo", timeout=60)
                statuses.append(answer.status_code)

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        assert register(server, "echo-2.0").status_code == 200
        assert models(server, "PUT", "/echo/2.0/set-default").status_code == 200
        assert models(server, "DELETE", "/echo/1.0").status_code == 200
        done.set()
        for each in asking:
            each.result()
    assert set(statuses) == {200}
    assert describe(server, "echo")["modelVersion"] == "2.0"


def test_presets_of_models(tmp_path: Path) -> None:
    """The `models` JSON: defaults for one name and version, beaten by the request (section 3.5)."""
    for version in ("1.0", "2.0"):
        write_model(tmp_path / "store", "echo", version=version)
    write_model(tmp_path / "store", "yaml", batchSize=2)
    preset = {"batchSize": 4, "maxBatchDelay": 33, "responseTimeout": 44, "startupTimeout": 55}
    nothing = {"batchSize": 0, "maxBatchDelay": -1, "responseTimeout": 0, "startupTimeout": 0}
    with running_server(
        tmp_path / "store", tmp_path / "cache",
        models={"echo": {"1.0": preset, "2.0": nothing}, "yaml": {"1.0": preset}, "no": {"1": {}}},
    ) as server:  # fmt: skip
        assert models(server, "GET").json() == {"models": []}
        for url in ("echo", "echo-2.0", "yaml"):
            assert register(server, url, initial_workers=0).status_code == 200
        first, second, third = (describe(server, m) for m in ("echo/1.0", "echo/2.0", "yaml"))
        keys = ("batchSize", "maxBatchDelay", "responseTimeout", "startupTimeout")
        assert [first[key] for key in keys] == [4, 33, 44, 55]
        assert [second[key] for key in keys] == [1, 100, 120, 120]
        assert third["batchSize"] == 2
        models(server, "DELETE", "/echo/2.0")
        models(server, "DELETE", "/echo/1.0")
        register(server, "echo", initial_workers=0, batch_size=9)
        assert describe(server, "echo")["batchSize"] == 9
