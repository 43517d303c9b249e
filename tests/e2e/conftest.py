"""One server with tiny models of every task, in both save modes, for all tests of this folder."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from flambeau.archive.model_folder import handler_settings, pack_folder, read_model_folder
from flambeau.archive.pack import PackRequest
from flambeau.handlers.prepare import prepare
from flambeau.handlers.prepare_request import PrepareRequest
from flambeau.testing.models import tiny_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.types import TaskName
from tests.e2e.peer import VENV

ARCHITECTURES: dict[str, str] = {
    "text-classification": "roberta",
    "token-classification": "distilbert",
    "question-answering": "bert",  # tells question from context by token types
    "text-generation": "gpt2",
}
LABELS = {
    "text-classification": ["NEGATIVE", "POSITIVE", "NEUTRAL"],
    "token-classification": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"],
}


class Models:
    """The folders that the served archives were made of."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, task: str) -> Path:
        """The `save_pretrained` folder of one task's model."""
        return self.root / task

    def reference(self, task: str, *inputs: str) -> Any:
        """Outputs of a plain transformers forward over one unpadded, truncated input."""
        import torch
        import transformers

        kind = {
            "text-classification": transformers.AutoModelForSequenceClassification,
            "token-classification": transformers.AutoModelForTokenClassification,
            "question-answering": transformers.AutoModelForQuestionAnswering,
        }[task]
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder(task))
        model = kind.from_pretrained(self.folder(task)).eval()
        with torch.inference_mode():
            encoded = tokenizer(*inputs, return_tensors="pt", truncation=True, max_length=128)
            return model(**encoded)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    root = tmp_path_factory.mktemp("models")
    for task, architecture in ARCHITECTURES.items():
        tiny_model(root / task, task, architecture, labels=LABELS.get(task))  # type: ignore[arg-type]  # literals in a table
    return Models(root)


@pytest.fixture(scope="session")
def served(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Every task as `<task>` and, traced, as `<task>-traced`."""
    store = tmp_path_factory.mktemp("store")
    scratch = tmp_path_factory.mktemp("scratch")
    names: list[str] = []
    for task in ARCHITECTURES:
        traced = models.root / f"{task}-traced"
        request = PrepareRequest(
            model_name=str(models.folder(task)), save_mode="torchscript", output=traced
        )
        prepare(request)
        for name, folder in ((task, models.folder(task)), (f"{task}-traced", traced)):
            pack_named(folder, name, task, store, scratch)  # type: ignore[arg-type]  # a literal in a table
            names.append(name)
    cache = tmp_path_factory.mktemp("cache")
    preload = ("flambeau.handlers.preload",)
    with running_server(store, cache, load_models=("all",), preload=preload) as server:
        asyncio.run(wait_until_ready(server, names))
        yield server


def pack_named(folder: Path, name: str, task: TaskName, store: Path, scratch: Path) -> Path:
    traced = "torchscript" if name.endswith("-traced") else None
    return pack_folder(
        read_model_folder(folder),
        PackRequest(model_name=name, version="1.0", handler="", export_path=store),
        handler_settings(task=task, save_mode=traced),
        scratch,
        lambda _line: None,
    )


async def wait_until_ready(server: RunningServer, names: list[str]) -> None:
    """Wait, by registering again with a wait, until each model has a worker."""
    async with httpx.AsyncClient(base_url=server.management, timeout=120) as client:
        for name in names:
            parameters = {"min_worker": "1", "synchronous": "true"}
            while (await client.get(f"/models/{name}")).status_code == 404:
                pass
            answer = await client.put(f"/models/{name}", params=parameters)
            assert answer.is_success, answer.text


@pytest.fixture
def peer_environment(tmp_path: Path) -> dict[str, str]:
    """TorchServe keeps its pid file, sockets and logs in folders of this test's own."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    # short: the worker's socket path must fit into 108 bytes
    return os.environ | {
        "TMPDIR": str(temporary),
        "TEMP": str(temporary),
        "LOG_LOCATION": str(tmp_path / "logs"),
        "METRICS_LOCATION": str(tmp_path / "logs"),
        "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}",
    }
