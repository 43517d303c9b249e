"""TorchServe's built-in handlers by name, over HTTP (contract.md sections 9.1, 9.3 and 9.5)."""

import base64
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import torch
from PIL import Image

from flambeau.testing.server import RunningServer, running_server

COLOURS = """
import torch
class Colours(torch.nn.Module):
    def forward(self, images):
        return images.mean(dim=(2, 3))
"""
BAG = """
import torch
class Bag(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.EmbeddingBag(3, 2, mode="sum")
    def forward(self, text, offsets):
        return self.embedding(text, offsets)
"""
DOUBLE = "import torch\nclass Double(torch.nn.Module):\n  def forward(self, x): return 2 * x\n"
CONTEXT = '''
import json
class Facts:
    """Answers with what the context says, and sets status and headers per row."""
    def initialize(self, context):
        self.at_load = [context.request_ids, context.request_processor is None]
        context.cache = {"loads": 1}
    def handle(self, data, context):
        answers = []
        for index in range(len(data)):
            context.set_response_status(201, "Made", index)
            context.set_response_header(index, "X-Row", index)
            context.set_response_content_type(index, "text/json")
            context.cache["loads"] += 0
            answers.append(json.dumps({
                "at_load": self.at_load,
                "name": context.model_name,
                "manifest": context.manifest["model"]["modelVersion"],
                "properties": sorted(context.system_properties),
                "server": context.system_properties["server_name"],
                "yaml": context.model_yaml_config["handler"],
                "id": context.get_request_id(index) == context.request_ids[index],
                "header": context.get_request_header(index, "x-foo"),
                "plain": type(context.get_all_request_header(index)).__name__,
                "cache": context.cache,
                "status": context.get_response_status(index),
                "type": context.get_response_content_type(index),
                "headers": sorted(context.get_response_headers(index)),
                "sequence": [context.header_key_sequence_id, context.stopping_criteria],
            }))
        return answers
'''


def saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def picture(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(file, "PNG")
    return file.getvalue()


MODELS: dict[str, tuple[str, dict[str, bytes], dict[str, str]]] = {
    "image_classifier": (
        "image_classifier",
        {"model.py": COLOURS.encode(), "index_to_name.json": b'{"0": "r", "1": "g", "2": "b"}'},
        {"modelFile": "model.py"},
    ),
    "text_classifier": (
        "text_classifier",
        {
            "model.py": BAG.encode(),
            "model.pt": saved({"embedding.weight": torch.tensor([[0, 0], [5, 0], [0, 5.0]])}),
            "source_vocab.pt": saved({"<unk>": 0, "good": 1, "bad": 2}),
            "index_to_name.json": b'{"0": "yes", "1": "no"}',
        },
        {"modelFile": "model.py", "serializedFile": "model.pt"},
    ),
    "densenet_handler": (
        "densenet_handler",
        {"model.py": DOUBLE.encode()},
        {"modelFile": "model.py"},
    ),
    "facts": (
        "facts.py",
        {"facts.py": CONTEXT.encode(), "c.yaml": b"handler: {a: 1}\n"},
        {"configFile": "c.yaml"},
    ),
    "vllm_handler": (
        "vllm_handler",
        {"c.yaml": b"handler: {model_path: m}"},
        {"configFile": "c.yaml"},
    ),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    store = tmp_path_factory.mktemp("store")
    for name, (handler, files, more) in MODELS.items():
        model = {"modelName": name, "modelVersion": "1.0", "handler": handler, **more}
        manifest = {"MAR-INF/MANIFEST.json": json.dumps({"model": model}).encode()}
        for file, content in (files | manifest).items():
            (store / name / file).parent.mkdir(parents=True, exist_ok=True)
            (store / name / file).write_bytes(content)
    preload = ("flambeau.handlers.ts.torch_handler.base_handler",)  # imports torch, once
    cache = tmp_path_factory.mktemp("cache")
    with running_server(store, cache, preload=preload) as running:
        yield running


def register(server: RunningServer, name: str) -> httpx.Response:
    parameters = {"url": name, "initial_workers": "1", "synchronous": "true", "batch_size": "4"}
    return httpx.post(f"{server.management}/models", params=parameters, timeout=120)


def ask(server: RunningServer, name: str, body: bytes) -> httpx.Response:
    return httpx.post(f"{server.inference}/predictions/{name}", content=body, timeout=60)


def test_image_classifier(server: RunningServer) -> None:
    """Pictures, base64 and multipart fields are answered with labels, also many at once."""
    assert register(server, "image_classifier").status_code == 200
    green = picture((0, 255, 0))
    url = f"{server.inference}/predictions/image_classifier"
    text = {"content-type": "text/plain"}
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(ask, server, "image_classifier", green) for _ in range(6)]
        bad = threads.submit(ask, server, "image_classifier", b"no picture")
        answers = [one.result() for one in waiting]
    answers.append(httpx.post(url, files={"data": green}))
    answers.append(httpx.post(url, content=base64.b64encode(green), headers=text))
    assert [next(iter(answer.json())) for answer in answers] == ["g"] * 8
    assert bad.result().status_code == 400


def test_text_classifier(server: RunningServer) -> None:
    """Every text of a batch is classified."""
    assert register(server, "text_classifier").status_code == 200
    texts = [b"good", b"Bad!", b"a good good bad thing"]
    with ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(lambda text: ask(server, "text_classifier", text), texts))
    found = [answer.json() for answer in answers]
    assert [max(labels, key=labels.__getitem__) for labels in found] == ["yes", "no", "yes"]


def test_densenet_handler(server: RunningServer) -> None:
    """A saved tensor in, a saved tensor out; what would run code is refused."""
    assert register(server, "densenet_handler").status_code == 200
    answer = ask(server, "densenet_handler", saved(torch.tensor([1.0, 2.0])))
    assert torch.load(io.BytesIO(answer.content)).tolist() == [[2.0, 4.0]]
    assert ask(server, "densenet_handler", saved(torch.nn.Linear(1, 1))).status_code == 400


def test_handler_of_a_missing_library(server: RunningServer) -> None:
    """Registering says in one line which package is missing, for whom, and what to do."""
    answer = register(server, "vllm_handler")
    assert answer.status_code == 500
    message = answer.json()["message"]
    assert "The handler vllm_handler needs the package vllm, which is not installed" in message
    assert "\n" not in message


def test_context(server: RunningServer) -> None:
    """What a handler sees at load and in a batch, and what it sets per row."""
    assert register(server, "facts").status_code == 200
    url = f"{server.inference}/predictions/facts"
    answer = httpx.post(url, headers={"X-Foo": "1"})
    assert (answer.status_code, answer.headers["content-type"]) == (201, "text/json")
    assert answer.headers["x-row"] == "0"
    assert answer.json() == {
        "at_load": [None, True],
        "name": "facts",
        "manifest": "1.0",
        "properties": [
            "batch_size",
            "gpu_id",
            "limit_max_image_pixels",
            "model_dir",
            "server_name",
            "server_version",
        ],
        "server": "MMS",
        "yaml": {"a": 1},
        "id": True,
        "header": "1",
        "plain": "dict",
        "cache": {"loads": 1},
        "status": [201, "Made"],
        "type": "text/json",
        "headers": ["X-Row", "content-type"],
        "sequence": ["ts_request_sequence_id", None],
    }
