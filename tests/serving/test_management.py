"""The management API through a real server (contract.md section 6)."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flambeau.config import ServerConfig
from flambeau.server import Core
from flambeau.testing.echo import describe, predict, register, write_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until

DESCRIBED = [
    "modelName", "modelVersion", "modelUrl", "runtime", "minWorkers", "maxWorkers", "batchSize",
    "maxBatchDelay", "responseTimeout", "startupTimeout", "maxRetryTimeoutInSec",
    "clientTimeoutInMills", "parallelType", "parallelLevel", "deviceType", "continuousBatching",
    "useJobTicket", "useVenv", "stateful", "sequenceMaxIdleMSec", "sequenceTimeoutMSec",
    "maxNumSequence", "maxSequenceJobQueueSize", "loadedAtStartup", "workers", "jobQueueStatus",
]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    store = tmp_path_factory.mktemp("store")
    for name in ("echo", "one", "two", "three"):
        write_model(store, name)
    for version in ("1.0", "2.0"):
        write_model(store, "versions", version=version)
    write_model(
        store, "yaml", batchSize=3, maxBatchDelay=7, responseTimeout=11, startupTimeout="quoted",
        minWorkers=2, maxWorkers=4, jobQueueSize=5, clientTimeoutInMills=1500, deviceType="cpu",
        deviceIds=[9], maxRetryTimeoutInSec=8, unknownKey={"a": 1},
    )  # fmt: skip
    write_model(store, "huge", batchSize=10**30)
    write_model(store, "bad-yaml", batchSize=1)
    (store / "bad-yaml" / "model-config.yaml").write_text("a: [")
    write_model(store, "no-date", batchSize=1)
    (store / "no-date" / "model-config.yaml").write_text("x: 2024-99-99")
    write_model(store, "deep-yaml", batchSize=1)
    (store / "deep-yaml" / "model-config.yaml").write_text("x: " + "[" * 500_000)
    (store / "broken.mar").write_bytes(b"PK\x03\x04 not really")
    with running_server(store, tmp_path_factory.mktemp("cache")) as running:
        yield running


@pytest.fixture(autouse=True)
def no_models(server: RunningServer) -> Iterator[None]:
    """Each test starts and ends without models."""
    yield
    for _ in range(2):  # default versions go last
        for model in httpx.get(f"{server.management}/models").json()["models"]:
            for version in reversed(httpx.get(url(server, model["modelName"], "all")).json()):
                httpx.delete(url(server, model["modelName"], version["modelVersion"]))
    assert httpx.get(f"{server.management}/models").json() == {"models": []}


def url(server: RunningServer, *parts: str) -> str:
    return "/".join([server.management, "models", *parts])


def failure(answer: httpx.Response) -> tuple[int, str, str]:
    document = answer.json()
    assert document["code"] == answer.status_code
    return answer.status_code, document["type"], document["message"]


def test_register_says_how_many_workers(server: RunningServer) -> None:
    """TorchServe's texts for none, some, and asynchronously (section 6.4)."""
    none = httpx.post(url(server), params={"url": "one"})
    assert (none.status_code, none.json()["status"]) == (
        200,
        'Model "one" Version: 1.0 registered with 0 initial workers.'
        " Use scale workers API to add workers for the model.",
    )
    some = register(server, "two", initial_workers=2)
    text = 'Model "two" Version: 1.0 registered with 2 initial workers'
    assert (some.status_code, some.json()["status"]) == (200, text)
    later = register(server, "three", synchronous="false")
    assert (later.status_code, later.json()["status"]) == (202, "Processing worker updates...")
    wait_until(lambda: predict(server, "three").status_code == 200)


def test_a_model_without_workers_refuses_and_can_be_scaled_up(server: RunningServer) -> None:
    """503 in TorchServe's words; healthy, since none are wanted (section 5.9)."""
    httpx.post(url(server), params={"url": "one"})
    refused = predict(server, "one")
    assert refused.status_code == 503
    assert refused.json()["message"] == (
        'Model "one" has no worker to serve inference request.'
        " Please use scale workers API to add workers. If this is a sequence inference, please"
        " check if it is closed, or expired; or exceeds maxSequenceJobQueueSize"
    )
    assert httpx.get(f"{server.inference}/ping").status_code == 200
    scaled = httpx.put(url(server, "one"), params={"min_worker": 1, "synchronous": "true"})
    assert scaled.json()["status"] == "Workers scaled to 1 for model: one"
    assert predict(server, "one").status_code == 200


def test_register_by_a_json_body(server: RunningServer) -> None:
    """Instead of the query, with any case of the type; numbers and booleans as JSON has them."""
    body = {"url": "echo", "model_name": "named", "initial_workers": 1, "synchronous": True}
    answer = httpx.post(
        url(server) + "?url=ignored",
        content=json.dumps(body),
        headers={"content-type": "Application/JSON; charset=utf-8"},
    )
    assert answer.status_code == 200
    assert predict(server, "named").status_code == 200
    assert describe(server, "named")["maxBatchDelay"] == 100


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, (400, "BadRequestException", "Parameter url is required.")),
        ({"url": ""}, (404, "ModelNotFoundException", "empty url")),
        (
            {"url": "../echo"},
            (404, "ModelNotFoundException", "Relative path is not allowed in url: ../echo"),
        ),
        ({"url": "no.mar"}, (404, "ModelNotFoundException", "Model not found at: no.mar")),
        ({"url": "http://h/x.mar"}, (404, "ModelNotFoundException", "Given URL http://h/x.mar ")),
        ({"url": "/etc"}, (404, "ModelNotFoundException", "Model not found at: /etc")),
        ({"url": "broken.mar"}, (400, "InvalidModelException", "broken.mar: ")),
        ({"url": "bad-yaml"}, (400, "InvalidModelException", "model-config.yaml")),
        ({"url": "no-date"}, (400, "InvalidModelException", "month must be in 1..12")),
        ({"url": "deep-yaml"}, (400, "InvalidModelException", "nested more than 64 levels")),
        ({"url": "echo", "model_name": "a/b c"}, (400, "BadRequestException", "model name")),
        ({"url": "echo", "initial_workers": "5000"}, (400, "BadRequestException", "at most 1024")),
    ],
)
def test_what_cannot_be_registered(
    server: RunningServer, query: dict[str, str], expected: tuple[int, str, str]
) -> None:
    """Status, type and text of section 6.4; nothing stays registered."""
    status, kind, message = failure(httpx.post(url(server), params=query))
    assert (status, kind) == expected[:2]
    assert expected[2] in message
    assert httpx.get(url(server)).json() == {"models": []}


@pytest.mark.parametrize("body", [b"{", b"[]", b"3", b'"x"', b"[" * 5000, b"\xff"])
def test_a_body_that_is_no_json_object_is_a_400(server: RunningServer, body: bytes) -> None:
    """TorchServe answered 500 (section 6.4)."""
    answer = httpx.post(url(server), content=body, headers={"content-type": "application/json"})
    assert failure(answer)[:2] == (400, "BadRequestException")


def test_a_management_body_has_a_limit(server: RunningServer) -> None:
    """64 KiB are enough for parameters."""
    answer = httpx.post(
        url(server), content=b" " * 70_000, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 413


def test_the_same_version_twice_is_a_conflict(server: RunningServer) -> None:
    """409; the first one serves on."""
    register(server, "one")
    assert failure(register(server, "one")) == (
        409,
        "ConflictStatusException",
        "Model version 1.0 is already registered for model one",
    )
    assert predict(server, "one").status_code == 200


def test_describe_has_torchserve_s_fields_in_order(server: RunningServer) -> None:
    """An array of one; workers with their process (section 6.3)."""
    register(server, "echo", batch_size=5, max_batch_delay=9, response_timeout=33)
    (document,) = httpx.get(url(server, "echo")).json()
    assert [name for name in document if name in DESCRIBED] == DESCRIBED
    assert (document["batchSize"], document["maxBatchDelay"]) == (5, 9)
    assert (document["responseTimeout"], document["startupTimeout"]) == (33, 120)
    assert document["loadedAtStartup"] is False
    (worker,) = document["workers"]
    assert worker["status"] == "READY"
    assert worker["pid"] == predict(server, "echo").json()["pid"]
    assert worker["memoryUsage"] > 1_000_000
    assert worker["id"].isdigit()
    assert document["jobQueueStatus"] == {"remainingCapacity": 100, "pendingRequests": 0}


def test_the_archive_s_yaml(server: RunningServer) -> None:
    """Its keys count, a wrong type is ignored, a valid pair of workers beats the query (4.1, 4.3)."""
    register(server, "yaml", initial_workers=1, response_timeout=77, startup_timeout=55)
    document = describe(server, "yaml")
    assert (document["minWorkers"], document["maxWorkers"]) == (2, 4)
    assert (document["batchSize"], document["maxBatchDelay"]) == (3, 7)
    assert (document["responseTimeout"], document["startupTimeout"]) == (11, 55)
    assert (document["clientTimeoutInMills"], document["maxRetryTimeoutInSec"]) == (1500, 8)
    assert document["jobQueueStatus"]["remainingCapacity"] == 5  # type: ignore[index]  # JSON
    assert document["deviceType"] == "cpu"
    assert len(document["workers"]) == 2  # type: ignore[arg-type]  # JSON


def test_a_query_beats_the_yaml_s_batch_size(server: RunningServer) -> None:
    """Register parameter, then yaml (section 4.3)."""
    register(server, "yaml", batch_size=6, max_batch_delay=8)
    document = describe(server, "yaml")
    assert (document["batchSize"], document["maxBatchDelay"]) == (6, 8)


def test_numbers_beyond_all_measure_are_ignored(server: RunningServer) -> None:
    """Where Java's parser would fail: from a yaml and from a query; the model serves."""
    register(server, "huge", response_timeout=10**400, startup_timeout="x", max_batch_delay=-3)
    document = describe(server, "huge")
    assert (document["batchSize"], document["responseTimeout"]) == (1, 120)
    assert document["maxBatchDelay"] == 100
    assert predict(server, "huge").status_code == 200


def test_versions(server: RunningServer) -> None:
    """The first is the default until told otherwise; the default goes last (6.7, 6.8)."""
    for folder in ("versions", "versions-2.0"):
        assert httpx.post(url(server), params={"url": folder}).status_code == 200
    assert describe(server, "versions")["modelVersion"] == "1.0"
    both = httpx.get(url(server, "versions", "all")).json()
    assert [each["modelVersion"] for each in both] == ["1.0", "2.0"]
    assert describe(server, "versions/2.0")["modelVersion"] == "2.0"
    assert failure(httpx.delete(url(server, "versions"))) == (
        403,
        "InvalidModelVersionException",
        "Cannot remove default version for model versions",
    )
    changed = httpx.put(url(server, "versions", "2.0", "set-default"))
    text = 'Default version successfully updated for model "versions" to "2.0"'
    assert (changed.status_code, changed.json()["status"]) == (200, text)
    assert describe(server, "versions")["modelVersion"] == "2.0"
    removed = httpx.delete(url(server, "versions", "1.0"))
    assert (removed.status_code, removed.json()["status"]) == (200, 'Model "versions" unregistered')
    assert httpx.delete(url(server, "versions")).status_code == 200


def test_a_second_version_that_fails_leaves_the_first_alone(
    server: RunningServer, tmp_path: Path
) -> None:
    """A broken update is told, removed, and never becomes the default (G14)."""
    register(server, "versions")
    folder = server.server.config.model_store
    assert folder is not None
    if not (folder / "versions-3.0").exists():
        write_model(folder, "versions", "raise ValueError('bad')", version="3.0")
    assert register(server, "versions-3.0").status_code == 500
    assert [v["modelVersion"] for v in httpx.get(url(server, "versions", "all")).json()] == ["1.0"]
    assert predict(server, "versions").status_code == 200


def test_list_is_sorted_and_paged(server: RunningServer) -> None:
    """`limit` and `next_page_token`, whatever they hold (section 6.2)."""
    for name in ("two", "one", "three"):
        httpx.post(url(server), params={"url": name})

    def page(**query: object) -> tuple[list[str], str | None]:
        document = httpx.get(url(server), params=query).json()  # type: ignore[arg-type]  # str() is httpx's
        return [model["modelName"] for model in document["models"]], document.get("nextPageToken")

    everything = (["one", "three", "two"], None)
    assert page() == everything
    for limit in (101, -1, "x", 3):
        assert page(limit=limit) == everything
    assert page(limit=2) == (["one", "three"], "2")
    assert page(limit=2, next_page_token=2) == (["two"], None)
    assert page(limit=0) == ([], "0")
    assert page(next_page_token=9) == ([], None)
    for token in (-5, "x"):
        assert page(next_page_token=token) == everything
    assert httpx.get(url(server)).json()["models"][0] == {"modelName": "one", "modelUrl": "one"}


def test_scale(server: RunningServer) -> None:
    """Asynchronous by default, the version told where it was given, bad numbers refused (6.6)."""
    register(server, "one")
    answer = httpx.put(url(server, "one"), params={"min_worker": 2})
    assert (answer.status_code, answer.json()["status"]) == (202, "Processing worker updates...")
    done = httpx.put(url(server, "one", "1.0"), params={"min_worker": 1, "synchronous": "true"})
    assert done.json()["status"] == "Workers scaled to 1 for model: one, version: 1.0"
    bad = httpx.put(url(server, "one"), params={"min_worker": 2, "max_worker": 1})
    text = "max_worker cannot be less than min_worker."
    assert failure(bad) == (400, "BadRequestException", text)
    assert httpx.put(url(server, "one"), params={"min_worker": 10**6}).status_code == 400
    assert httpx.put(url(server, "one"), params={"min_worker": "x"}).status_code == 202
    assert httpx.put(url(server, "one"), params={"model_version": "9"}).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "models/nobody", 404),
        ("GET", "models/nobody/all", 404),
        ("PUT", "models/nobody", 404),
        ("DELETE", "models/nobody", 404),
        ("PUT", "models/nobody/1.0/set-default", 404),
        ("PATCH", "models", 405),
        ("POST", "models/one", 405),
        ("DELETE", "models", 405),
        ("GET", "", 405),
        ("GET", "nowhere", 404),
        ("POST", "predictions/one", 404),
    ],
)
def test_unknown_models_methods_and_paths(
    server: RunningServer, method: str, path: str, status: int
) -> None:
    """Each with an error body; the inference API is not on this port."""
    answer = httpx.request(method, f"{server.management}/{path}")
    assert failure(answer)[0] == status


def test_the_model_api_is_off_unless_switched_on(tmp_path: Path) -> None:
    """405 that says how; listing, describing, scaling and set-default stay (section 6.1)."""
    write_model(tmp_path / "store", "echo")
    with running_server(
        tmp_path / "store", tmp_path / "cache", enable_model_api=False, load_models=("echo",)
    ) as server:
        wait_until(lambda: predict(server, "echo").status_code == 200)
        for answer in (register(server, "echo"), httpx.delete(url(server, "echo"))):
            status, kind, message = failure(answer)
            assert (status, kind) == (405, "MethodNotAllowedException")
            assert "--enable-model-api" in message
            assert "enable_model_api=true" in message
        assert httpx.get(url(server)).json()["models"]
        assert describe(server, "echo")["loadedAtStartup"] is True
        assert httpx.put(url(server, "echo"), params={"min_worker": 1}).status_code == 202
        assert httpx.put(url(server, "echo", "1.0", "set-default")).status_code == 200
        assert predict(server, "echo").status_code == 200


def test_startup_models(tmp_path: Path) -> None:
    """Names, renamed, presets of `models`; what cannot be loaded only warns (2.4, 3.5)."""
    store = tmp_path / "store"
    write_model(store, "echo")
    preset = {"renamed": {"1.0": {"batchSize": 4, "maxBatchDelay": 33, "minWorkers": 2}}}
    with running_server(
        store, tmp_path / "cache", load_models=("echo", "no.mar", "renamed=echo"), models=preset
    ) as server:
        wait_until(lambda: predict(server, "renamed").status_code == 200)
        document = describe(server, "renamed")
        assert (document["batchSize"], document["maxBatchDelay"]) == (4, 33)
        assert document["minWorkers"] == 2
        names = [each["modelName"] for each in httpx.get(url(server)).json()["models"]]
        assert names == ["echo", "renamed"]


def test_a_store_that_cannot_be_read_only_warns(tmp_path: Path) -> None:
    """`--models all` of a folder that went away: the server starts and serves."""
    with running_server(tmp_path / "gone", tmp_path / "cache", load_models=("all",)) as server:
        assert httpx.get(f"{server.inference}/ping").status_code == 200


def test_stopping_while_startup_models_are_loaded(tmp_path: Path) -> None:
    """No model is started behind the back of the stop, which would never end then."""
    store = tmp_path / "store"
    write_model(store, "first")
    write_model(store, "second")
    config = ServerConfig(model_store=store, cache_dir=tmp_path / "cache", preload=())

    async def stop_at_once() -> list[str]:
        core = Core(config)
        async with core.running() as group:
            loading = group.create_task(core.management.load_startup_models(("first", "second")))
            await asyncio.sleep(0)  # the first archive is being opened when the stop comes
        await loading
        return core.registry.names()

    assert asyncio.run(stop_at_once()) == []
