"""Routes of SageMaker, KServe and old clients, and what handlers hear there (section 5.1, 5.10)."""

from collections.abc import Iterator

import httpx
import pytest

from flambeau.config import Address
from flambeau.testing.echo import Gate, describe, register, write_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until

SEE = {"x-do": "see"}
FAILING = "raise ValueError('no model')"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """`echo` is the only start-up model; `other` was registered later; the OIP is enabled."""
    store = tmp_path_factory.mktemp("store")
    for name in ("echo", "other"):
        write_model(store, name)
    write_model(store, "failing", FAILING)
    with running_server(
        store,
        tmp_path_factory.mktemp("cache"),
        load_models=("echo",),
        ts_open_inference_protocol=True,
    ) as running:
        assert register(running, "other").status_code == 200
        wait_until(lambda: post(running, "predictions/echo").status_code == 200)
        yield running


@pytest.fixture(scope="module")
def bare_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """No start-up model, no OIP."""
    store = tmp_path_factory.mktemp("store")
    write_model(store, "echo")
    with running_server(store, tmp_path_factory.mktemp("cache")) as running:
        assert register(running, "echo").status_code == 200
        yield running


def post(server: RunningServer, path: str, **arguments: object) -> httpx.Response:
    return httpx.post(f"{server.inference}/{path}", timeout=60, **arguments)  # type: ignore[arg-type]  # httpx's own names


def heard(answer: httpx.Response) -> dict[str, object]:
    assert answer.status_code == 200, answer.text
    headers: dict[str, object] = answer.json()["headers"]
    return headers


@pytest.mark.parametrize(
    ("path", "explain"),
    [
        ("v1/models/other:predict", "False"),
        ("v1/models/other:explain", "True"),
        ("v2/models/other/infer", "False"),
        ("v2/models/other/explain/", "True"),
    ],
)
def test_kserve_s_paths_carry_torchserve_s_payloads(
    server: RunningServer, path: str, explain: str
) -> None:
    """The body as on every route; `explain` is told, `url_path` is not."""
    headers = heard(post(server, path, headers={"Explain": "forged", **SEE}))
    assert headers["explain"] == explain
    assert not {"url_path", "Explain"} & headers.keys()
    row = post(server, path, json={"instances": [1]}).json()["row"]
    assert row == {"body": ["dict", {"instances": [1]}]}


@pytest.mark.parametrize(
    "path", ["models/other/invoke", "other/predict", "other/1.0/predict", "invocations"]
)
def test_query_parameters_are_fields_of_the_row_there(server: RunningServer, path: str) -> None:
    """As bytes, before the body's; the client's explain and describe are not heard (12.6.2)."""
    query = "?a=1&b=%C3%A9+x&a=2&model_name=other"
    row = post(server, path + query, content=b"x").json()["row"]
    assert row == {
        "a": ["bytearray", "2"],
        "b": ["bytearray", "\u00c3\u00a9 x"],
        "model_name": ["bytearray", "other"],
        "body": ["bytearray", "x"],
    }
    headers = heard(
        post(server, path + query, headers={"explain": "True", "Describe": "True", **SEE})
    )
    assert not {"explain", "describe", "url_path", "url_query"} & {key.lower() for key in headers}


def test_on_predictions_the_query_is_a_header(server: RunningServer) -> None:
    """TorchServe drops it; as a field it would surprise handlers (12.6.1)."""
    answer = post(server, "predictions/echo?a=1&b=%20", content=b"x")
    assert answer.json()["row"] == {"body": ["bytearray", "x"]}
    headers = heard(post(server, "predictions/echo?a=1&b=%20", headers=SEE))
    assert headers["url_query"] == "a=1&b=%20"
    forged = heard(post(server, "predictions/echo", headers={"URL_QUERY": "x", **SEE}))
    assert "url_query" not in {key.lower() for key in forged}


def test_header_names_as_they_were_spelled(server: RunningServer) -> None:
    """And looked up in any letter case by the handler."""
    headers = heard(post(server, "predictions/echo", headers={"X-Mixed-Case": "1", **SEE}))
    assert headers["X-Mixed-Case"] == "1"
    assert "x-mixed-case" not in headers
    assert headers["body"] == {"content-type": ""}


def test_invocations_without_a_name_ask_the_only_startup_model(server: RunningServer) -> None:
    """A form's field does not count then; the query's does."""
    form = {"model_name": "nobody", "b": "2"}
    assert post(server, "invocations", content=b"x").json()["row"] == {"body": ["bytearray", "x"]}
    row = post(server, "invocations", data=form).json()["row"]
    assert row == {"model_name": ["bytearray", "nobody"], "b": ["bytearray", "2"]}
    assert post(server, "invocations?model_name=nobody").status_code == 404


def test_invocations_without_a_startup_model_need_a_name(bare_server: RunningServer) -> None:
    """From the query or a form; else 400 in TorchServe's words."""
    nameless = post(bare_server, "invocations", content=b"x")
    assert nameless.status_code == 400
    assert nameless.json() == {
        "code": 400,
        "type": "BadRequestException",
        "message": "Parameter model_name is required.",
    }
    assert post(bare_server, "invocations", data={"model_name": "echo"}).status_code == 200
    assert post(bare_server, "invocations?model_name=echo").status_code == 200
    assert post(bare_server, "invocations", data={"model_name": "nobody"}).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "v1/models/nobody:predict", "v2/models/nobody/infer", "models/nobody/invoke",
        "nobody/predict", "nobody/1.0/predict", "explanations/nobody",
    ],
)  # fmt: skip
def test_unknown_models_on_every_route(server: RunningServer, path: str) -> None:
    """404 with TorchServe's type and text, for OPTIONS too."""
    for method in ("POST", "OPTIONS"):
        answer = httpx.request(method, f"{server.inference}/{path}")
        assert answer.status_code == 404
        assert answer.json()["type"] == "ModelNotFoundException"
        assert answer.json()["message"] == "Model not found: nobody"


@pytest.mark.parametrize(
    "path",
    [
        "models", "models/echo", "models/echo/1.0", "v1/models/echo", "v1/models", "v2/models/echo",
        "v2/models/echo/ready", "predictions", "explanations/", "echo", "models/predict", "nowhere/x",
    ],
)  # fmt: skip
def test_what_is_no_route_here(server: RunningServer, path: str) -> None:
    """404 `ResourceNotFoundException`: the management API is on its own port."""
    answer = httpx.get(f"{server.inference}/{path}")
    assert (answer.status_code, answer.json()["type"]) == (404, "ResourceNotFoundException")


def test_open_inference_protocol(server: RunningServer, bare_server: RunningServer) -> None:
    """Server metadata, liveness, versions: when it is enabled, else 404 (section 5.10)."""
    expected: dict[str, tuple[int, object]] = {
        "v2": (
            200,
            {
                "name": "Torchserve",
                "version": "0.12.0",
                "extensions": ["kserve", "kubeflow"],
                "extenstion": ["kserve", "kubeflow"],
            },
        ),
        "v2/health/live": (200, {"live": True}),
        "v2/models/echo/versions/1": (501, {"error": "Model versioning is not yet supported."}),
        "v2/models/echo/versions/1/infer": (
            501,
            {"error": "Model versioning is not yet supported."},
        ),
    }
    for path, (status, document) in expected.items():
        answer = httpx.get(f"{server.inference}/{path}")
        assert (answer.status_code, answer.json()) == (status, document)
        assert httpx.get(f"{bare_server.inference}/{path}").status_code == 404
    assert post(bare_server, "v2/models/echo/infer").status_code == 200


def test_ready_only_when_the_models_are(server: RunningServer) -> None:
    """Per server (OIP) and per model (KServe v1 on the management port)."""

    def ready() -> tuple[int, object]:
        answer = httpx.get(f"{server.inference}/v2/health/ready")
        return answer.status_code, answer.json()

    def of(model: str) -> object:
        return httpx.get(f"{server.management}/v1/models/{model}").json()

    assert ready() == (200, {"ready": True})
    assert of("echo") == {"name": "echo", "ready": True}
    assert register(server, "failing", synchronous="false").status_code == 202
    assert ready() == (503, {"ready": False})
    assert of("failing") == {"name": "failing", "ready": False}
    assert httpx.delete(f"{server.management}/models/failing").status_code == 200
    assert ready() == (200, {"ready": True})
    unknown = httpx.get(f"{server.management}/v1/models/nobody")
    assert (unknown.status_code, unknown.json()["type"]) == (404, "ModelNotFoundException")
    wrong = httpx.post(f"{server.management}/v1/models/echo")
    assert (wrong.status_code, wrong.json()["type"]) == (405, "MethodNotAllowedException")


def test_one_address_serves_everything(tmp_path_factory: pytest.TempPathFactory) -> None:
    """As KServe's image is configured: no API hides another's paths."""
    store = tmp_path_factory.mktemp("store")
    write_model(store, "echo")
    socket = tmp_path_factory.mktemp("s") / "all"
    with running_server(
        store,
        tmp_path_factory.mktemp("cache"),
        inference_address=Address(path=str(socket)),
        management_address=Address(path=str(socket)),
        metrics_address=Address(path=str(socket)),
    ):
        transport = httpx.HTTPTransport(uds=str(socket))
        with httpx.Client(transport=transport, base_url="http://h", timeout=60) as client:
            added = client.post("/models", params={"url": "echo", "initial_workers": 1})
            assert added.status_code == 200
            assert client.get("/models/echo/1.0").json()[0]["modelName"] == "echo"
            assert client.post("/models/echo/invoke").json()["batch"] == 1
            assert client.post("/v1/models/echo:predict").json()["batch"] == 1
            assert client.get("/v1/models/echo").json() == {"name": "echo", "ready": True}
            assert "ts_inference_requests_total" in client.get("/metrics").text
            paths = client.get("/openapi.json").json()["paths"]
            assert {"/predictions/{model_name}", "/models", "/metrics", "/ping"} <= set(paths)
            assert "servers" not in paths["/metrics"]


def test_a_worker_that_loads_is_loading(server: RunningServer, gate: Gate) -> None:
    """`LOADING` until it is READY; `pid` and start time are there (section 6.3, wart 12.3.4)."""
    source = f"""
import os, time
while not os.path.exists({str(gate.file)!r}):
    time.sleep(0.005)
def handle(data, context):
    return [""] * len(data or [])
"""
    store = server.server.config.model_store
    assert store is not None
    write_model(store, "slow", source)
    assert register(server, "slow", synchronous="false").status_code == 202

    def worker() -> dict[str, object]:
        workers = describe(server, "slow")["workers"]
        assert isinstance(workers, list)
        (only,) = workers
        found: dict[str, object] = only
        return found

    assert worker()["status"] == "LOADING"
    assert httpx.get(f"{server.inference}/ping").status_code == 200
    gate.open()
    wait_until(lambda: worker()["status"] == "READY")
    assert httpx.delete(f"{server.management}/models/slow").status_code == 200
