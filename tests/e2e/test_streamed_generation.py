"""Generation over real sockets: a stream comes while it is made, and ends with its client."""

import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from flambeau.testing.generating_models import tiny_generator
from flambeau.testing.server import RunningServer
from tests.e2e.conftest import pack_named
from tests.telemetry.metric_models import families

ENDLESS = 50_000
"""Tokens that nobody waits for: they would take the tiny model a minute."""


@pytest.fixture(scope="module")
def endless(served: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a model that can go on for very long."""
    folder = tiny_generator(tmp_path_factory.mktemp("llama"), "llama", positions=2 * ENDLESS)
    store = served.server.config.model_store
    assert store is not None
    archive = pack_named(
        folder, "endless", "text-generation", store, tmp_path_factory.mktemp("pack")
    )
    parameters = {"url": archive.name, "initial_workers": "1", "synchronous": "true"}
    answer = httpx.post(f"{served.management}/models", params=parameters, timeout=60)
    assert answer.is_success, answer.text
    yield "endless"
    httpx.delete(f"{served.management}/models/endless")


def ask(
    served: RunningServer, model: str, accept: str, **parameters: Any
) -> http.client.HTTPResponse:
    """The response as soon as its head is there."""
    address = urlsplit(served.inference)
    assert address.hostname is not None
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    body = json.dumps({"inputs": "the torch", "parameters": parameters})
    headers = {"content-type": "application/json", "accept": accept, "connection": "close"}
    connection.request("POST", f"/predictions/{model}", body, headers)
    return connection.getresponse()


def test_a_stream_of_events(served: RunningServer) -> None:
    """One event per token, the last one with the whole text."""
    response = ask(
        served, "text-generation", "text/event-stream", max_new_tokens=9, min_new_tokens=9
    )
    assert response.headers["content-type"] == "text/event-stream"
    assert int(response.headers["x-flambeau-tokens"]) > 0  # what was read: the rest is to come
    assert response.headers["x-flambeau-truncated"] == "false"
    assert response.headers["transfer-encoding"] == "chunked"
    events = [json.loads(line[5:]) for line in response if line.startswith(b"data:")]
    assert len(events) == 9
    assert events[-1]["generated_text"] == "".join(event["token"]["text"] for event in events)
    assert events[-1]["details"]["finish_reason"] == "length"


def test_a_newcomer_is_answered_while_others_generate(served: RunningServer, endless: str) -> None:
    """It joins the running batch of the model's only worker."""
    long = ask(served, endless, "*/*", stream=True, max_new_tokens=ENDLESS, min_new_tokens=ENDLESS)
    assert long.read1(1)
    short = ask(served, endless, "application/json", max_new_tokens=2)
    assert json.loads(short.read())[0]["generated_text"].startswith("the torch")
    assert long.read1(1)
    long.close()


def test_a_client_that_leaves_ends_the_work(served: RunningServer, endless: str) -> None:
    """Its worker is free soon, with a small part of the tokens generated."""
    model = (f"model_name={endless}", "model_version=1.0")

    def tokens() -> float:
        return families(served).get("flambeau_batch_tokens_sum", {}).get(model, 0)

    def busy() -> bool:
        slot = served.server.core.registry.get(endless).pool.slots[0]
        return slot.state == "busy"

    while busy():
        pass
    before = tokens()
    asked = {"max_new_tokens": ENDLESS, "min_new_tokens": ENDLESS}
    response = ask(served, endless, "text/event-stream", **asked)
    assert response.readline().startswith(b"data:")
    assert busy()
    response.close()
    while busy():
        pass
    assert 0 < tokens() - before < ENDLESS / 2
