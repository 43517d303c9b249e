"""Tiny models and inputs that all tests of the native handler share."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from flambeau.handlers.prepare import prepare
from flambeau.handlers.prepare_request import PrepareRequest
from flambeau.testing.models import Architecture, tiny_model
from flambeau.types import TaskName

TEXTS = [
    "the movie was great",
    "Ada Lovelace lived in London.",
    "a",
    "Jim Henson was a nice puppet and the torch carries light on and on in Paris",
    "what a terrible question",
]
QUESTION = {"question": "Who was Jim Henson?", "context": "Jim Henson was a nice puppet in London"}
LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


class Models:
    """Tiny models, each written once per module and only read from then on."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, task: TaskName, architecture: Architecture = "bert") -> Path:
        """A `save_pretrained` folder."""
        folder = self._root / f"{task}-{architecture}"
        if not folder.is_dir():
            tiny_model(folder, task, architecture, labels=LABELS)
        return folder

    def traced(self, task: TaskName, architecture: Architecture = "bert") -> Path:
        """The same model as `flambeau prepare --save-mode torchscript` saves it."""
        folder = self._root / f"{task}-{architecture}-traced"
        if not folder.is_dir():
            source = str(self.get(task, architecture))
            prepare(PrepareRequest(model_name=source, save_mode="torchscript", output=folder))
        return folder


def classification_scores(answer: list[dict[str, Any]]) -> list[float]:
    """Scores of a `full` answer in the order of the labels."""
    by_label = {row["label"]: row["score"] for row in answer}
    return [by_label[label] for label in LABELS]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Machines that run tests share their cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"))
