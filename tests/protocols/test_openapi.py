"""The OpenAPI documents: valid, with TorchServe's operation ids, and true (section 6.9)."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openapi_schema_validator import OAS30Validator
from openapi_spec_validator import validate

from flambeau.testing.echo import register, write_model
from flambeau.testing.server import RunningServer, running_server

INFERENCE = {"apiDescription", "api-description", "ping", "predictions", "version_predictions"}
MANAGEMENT = {
    "apiDescription", "api-description", "registerModel", "listModels", "describeModel",
    "version_describeModel", "setAutoScale", "version_setAutoScale", "unregisterModel",
    "version_unregisterModel", "setDefault",
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    store = tmp_path_factory.mktemp("store")
    write_model(store, "echo")
    with running_server(
        store, tmp_path_factory.mktemp("cache"), ts_open_inference_protocol=True
    ) as running:
        assert register(running, "echo").status_code == 200
        yield running


def fetch(method: str, url: str) -> dict[str, Any]:
    answer = httpx.request(method, url)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    document: dict[str, Any] = answer.json()
    validate(document)
    assert document["openapi"] == "3.0.1"
    return document


def operations(document: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Method and path by operation id."""
    return {
        operation["operationId"]: (method, path)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method != "servers"
    }


@pytest.mark.parametrize(
    ("port", "ids"),
    [("inference", INFERENCE), ("management", MANAGEMENT), ("metrics", {"metrics"})],
)
def test_each_port_describes_itself(server: RunningServer, port: str, ids: set[str]) -> None:
    """`OPTIONS /`, `/api-description` and `/openapi.json` are one valid document."""
    base = getattr(server, port)
    document = fetch("GET", f"{base}/openapi.json")
    assert fetch("OPTIONS", f"{base}/") == document
    assert fetch("GET", f"{base}/api-description") == document
    assert document["info"] == {"title": "TorchServe APIs", "version": "0.12.0"}
    assert ids <= operations(document).keys()
    assert operations(document)["metrics"] == ("get", "/metrics")
    elsewhere = document["paths"]["/metrics"].get("servers", [{"url": base}])
    assert elsewhere == [{"url": server.metrics}]
    assert httpx.get(f"{base}/").status_code == 405


@pytest.mark.parametrize("path", ["predictions/echo", "v2/models/echo/infer", "echo/predict"])
def test_a_model_describes_its_calls(server: RunningServer, path: str) -> None:
    """On every prediction route, without a call of the handler."""
    document = fetch("OPTIONS", f"{server.inference}/{path}")
    assert document["info"] == {"title": "RESTful API for: echo", "version": "1.0.0"}
    assert list(document["paths"]) == [
        "/predictions/echo",
        "/v1/models/echo:predict",
        "/v2/models/echo/infer",
    ]
    for each in document["paths"]:
        assert httpx.post(server.inference + each).status_code == 200
    unknown = httpx.options(f"{server.inference}/predictions/echo/9")
    assert unknown.json()["type"] == "ModelVersionNotFoundException"


def test_a_model_describes_its_management(server: RunningServer) -> None:
    """`OPTIONS /models/{m}` and of a version; 404 for an unknown one."""
    for path in ("models/echo", "models/echo/1.0"):
        document = fetch("OPTIONS", f"{server.management}/{path}")
        assert document["info"]["title"] == "RESTful Management API for: echo"
        assert "setDefault" in operations(document)
    assert httpx.options(f"{server.management}/models/nobody").status_code == 404


def test_what_is_described_is_served(server: RunningServer) -> None:
    """No operation of any port is an unknown route or method there."""
    values = {"{model_name}": "nobody", "{model_version}": "1.0", "{url_path}": "a"}
    for port in ("inference", "management", "metrics"):
        base = getattr(server, port)
        document = fetch("GET", f"{base}/openapi.json")
        for method, path in operations(document).values():
            if document["paths"][path].get("servers"):
                continue
            for name, value in values.items():
                path = path.replace(name, value)
            answer = httpx.request(method.upper(), base + path)
            kind = answer.json().get("type", "") if answer.status_code >= 400 else ""
            assert kind not in {"ResourceNotFoundException", "MethodNotAllowedException"}, path


def test_a_description_answers_as_described(server: RunningServer) -> None:
    """The describe call's real answers fit their schema."""
    document = fetch("GET", f"{server.management}/openapi.json")
    schema = {
        "type": "array",
        "items": {"$ref": "#/components/schemas/Model"},
        "components": document["components"],
    }
    for query in ("", "?customized=true"):
        answer = httpx.get(f"{server.management}/models/echo{query}").json()
        assert set(answer[0]) <= set(document["components"]["schemas"]["Model"]["properties"])
        OAS30Validator(schema).validate(answer)
