"""Tiny models in the form that each engine runs, made once and only read from then on."""

import json
from pathlib import Path
from typing import NamedTuple

from flambeau.archive.graphs import GRAPH_SUFFIXES, Form
from flambeau.engines.base import ModelSource
from flambeau.handlers.export import export
from flambeau.handlers.export_request import ExportRequest
from flambeau.handlers.prepare import TRACED_FILE, prepare
from flambeau.handlers.prepare_request import PrepareRequest
from flambeau.testing.models import MAX_POSITIONS, Architecture, tiny_model
from flambeau.types import TaskName

OUTPUTS: dict[TaskName, tuple[str, ...]] = {
    "text-classification": ("logits",),
    "token-classification": ("logits",),
    "question-answering": ("start_logits", "end_logits"),
    "fill-mask": ("logits",),
    "embeddings": ("last_hidden_state",),
}
LABELS = ["O", "B-PER", "I-PER"]


class Case(NamedTuple):
    """A model: an architecture with a task's head."""

    architecture: Architecture
    task: TaskName


class Forms:
    """Where the models lie."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def weights(self, case: Case) -> Path:
        """A `save_pretrained` folder."""
        folder = self._root / f"{case.architecture}-{case.task}"
        if not folder.is_dir():
            tiny_model(folder, case.task, case.architecture, labels=LABELS)
        return folder

    def traced(self, case: Case) -> Path:
        """What `flambeau prepare --save-mode torchscript` makes of it."""
        folder = self._root / f"{case.architecture}-{case.task}-traced"
        if not folder.is_dir():
            request = PrepareRequest(
                model_name=str(self.weights(case)), save_mode="torchscript", output=folder
            )
            prepare(request)
        return folder

    def graphs(self, case: Case) -> Path:
        """What `flambeau pack --export onnx,openvino` makes of it: all forms in one folder."""
        folder = self._root / f"{case.architecture}-{case.task}-graphs"
        if not folder.is_dir():
            folder.mkdir()
            forms = tuple(
                Form(engine, precision)
                for engine in GRAPH_SUFFIXES.values()
                for precision in ("fp32", "int8")
            )
            weights = self.weights(case)
            export(ExportRequest(folder=weights, task=case.task, forms=forms, output=folder))
        return folder

    def source(self, engine: str, case: Case) -> ModelSource:
        """What an engine is told to load."""
        folder = self.weights(case)
        file = None
        if engine == "torchscript":
            folder = self.traced(case)
            file = folder / TRACED_FILE
        elif engine in GRAPH_SUFFIXES.values():
            folder = self.graphs(case)
        config = json.loads((self.weights(case) / "config.json").read_text())
        return ModelSource(
            model_dir=folder,
            task=case.task,
            outputs=OUTPUTS[case.task],
            file=file,
            pad_id=config["pad_token_id"],
            max_length=MAX_POSITIONS,
            threads=1,
        )
