"""Management calls in detail: parameters, versions, methods, the time-out of an unregistration."""

import concurrent.futures
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flambeau.testing.echo import Gate, describe, predict, register, write_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    store = tmp_path_factory.mktemp("store")
    for version in ("1.0", "2.0"):
        write_model(store, "echo", version=version)
    for name in ("other", "busy"):
        write_model(store, name)
    write_model(store, "failing", "raise ValueError('no weights')")
    with running_server(
        store,
        tmp_path_factory.mktemp("cache"),
        load_models=("echo",),
        unregister_model_timeout=0.3,
    ) as running:
        wait_until(lambda: predict(running, "echo").status_code == 200)
        yield running


def call(server: RunningServer, method: str, path: str, **query: object) -> tuple[int, object]:
    url = f"{server.management}/models{path}"
    answer = httpx.request(method, url, params={k: str(v) for k, v in query.items()}, timeout=60)
    document = answer.json()
    told = document.get("message") or document.get("status") if isinstance(document, dict) else None
    return answer.status_code, told or document


def test_the_runtime(server: RunningServer) -> None:
    """`python` and `python3` are shown as asked for; others are refused in TorchServe's words."""
    assert call(server, "POST", "", url="other", runtime="foo") == (
        400,
        "Invalid RuntimeType value: foo",
    )
    assert register(server, "other", runtime="python3").status_code == 200
    assert describe(server, "other")["runtime"] == "python3"
    assert predict(server, "other").status_code == 200
    assert call(server, "DELETE", "/other") == (200, 'Model "other" unregistered')
    assert register(server, "other").status_code == 200
    assert describe(server, "other")["runtime"] == "python"
    assert call(server, "DELETE", "/other")[0] == 200


def test_another_handler_than_the_archive_s(server: RunningServer, tmp_path: Path) -> None:
    """A function of one of its files, or of a file elsewhere (section 9.1)."""
    elsewhere = tmp_path / "elsewhere.py"
    elsewhere.write_text(
        "def fn(data, context):\n    return ['from elsewhere'] * len(data or [])\n"
    )
    expected = {"handler.py:show": 500, "handler:handle": 200, f"{elsewhere}:fn": 200}
    for handler, status in expected.items():
        answer = register(server, "other", model_name="handled", handler=handler)
        assert answer.status_code == status, answer.text
        if status == 200:
            assert predict(server, "handled").status_code == 200
            assert call(server, "DELETE", "/handled")[0] == 200
    assert call(server, "GET", "/handled")[0] == 404


def test_scaling_up_a_model_that_cannot_load(server: RunningServer) -> None:
    """500 in TorchServe's words with the version and the reason; it stays registered."""
    assert register(server, "failing", initial_workers=0).status_code == 200
    status, message = call(server, "PUT", "/failing", min_worker=1, synchronous="true")
    assert status == 500
    assert str(message).startswith("Failed to start workers for model failing version: 1.0: ")
    assert "no weights" in str(message)
    assert call(server, "DELETE", "/failing")[0] == 200


def test_what_was_loaded_at_start_is_a_matter_of_names(server: RunningServer) -> None:
    """As in TorchServe: of a later version of the name, too."""
    assert call(server, "POST", "", url="echo-2.0")[0] == 200
    _, both = call(server, "GET", "/echo/all")
    assert isinstance(both, list)
    assert [each["loadedAtStartup"] for each in both] == [True, True]
    assert [each["modelVersion"] for each in both] == ["1.0", "2.0"]
    assert describe(server, "echo/2.0/set-default")["modelVersion"] == "2.0"
    assert call(server, "DELETE", "/echo/2.0")[0] == 200


def test_set_default_of_what_is_not_there(server: RunningServer) -> None:
    """404 in TorchServe's words, for the version and for the model."""
    assert call(server, "PUT", "/echo/9/set-default") == (
        404,
        "Model version 9 does not exist for model echo",
    )
    assert call(server, "PUT", "/nobody/1/set-default") == (404, "Model not found: nobody")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/echo/1.0/set-default"),
        ("POST", "/echo/1.0/set-default"),
        ("OPTIONS", ""),
        ("HEADLESS", "/echo"),
    ],
)
def test_methods_that_a_path_has_not(server: RunningServer, method: str, path: str) -> None:
    """405, and nothing happens."""
    message = "Requested method is not allowed, please refer to API document."
    assert call(server, method, path) == (405, message)
    assert describe(server, "echo")["modelVersion"] == "1.0"


def test_only_a_registration_reads_a_body(server: RunningServer) -> None:
    """A scale call's parameters are the query's; `timeout` and `number_gpu` are accepted."""
    url = f"{server.management}/models/echo"
    query = "min_worker=1&max_worker=3&timeout=1&number_gpu=9&synchronous=True"
    answer = httpx.put(f"{url}?{query}", json={"min_worker": 2}, timeout=60)
    assert answer.json() == {"status": "Workers scaled to 1 for model: echo"}
    assert describe(server, "echo")["maxWorkers"] == 3


def test_a_form_is_no_registration(server: RunningServer) -> None:
    """Its fields are not read; an empty JSON body is no object and no url."""
    for arguments in (
        {"data": {"url": "other"}},
        {"headers": {"content-type": "application/json"}},
    ):
        answer = httpx.post(f"{server.management}/models", **arguments)  # type: ignore[arg-type]  # httpx's own names
        assert answer.status_code == 400
        assert answer.json()["message"] == "Parameter url is required."


def test_an_unregistration_that_takes_too_long(server: RunningServer, gate: Gate) -> None:
    """408 after unregister_model_timeout; the model is gone, and its request got an answer."""
    assert register(server, "busy").status_code == 200
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        running = threads.submit(predict, server, "busy", **gate.headers)
        gate.wait_entered()
        url = f"{server.management}/models/busy"
        answer = httpx.delete(url, timeout=60)
        assert answer.status_code == 408
        assert answer.json()["type"] == "RequestTimeoutException"
        assert answer.json()["message"] == "Timed out while cleaning resources: busy"
        assert running.result(60).status_code in {500, 503}
    assert httpx.get(url).status_code == 404
