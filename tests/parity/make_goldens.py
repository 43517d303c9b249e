"""Makes the goldens of the parity tests with the pipelines of transformers 4.57.6.

Run by hand, with that version installed (the last one with all the text pipelines):

    PYTHONPATH=. python tests/parity/make_goldens.py [task ...]

`goldens/<task>.jsonl` holds one case a line: model, parameters, the place of its input in the list
of the first line, and what the pipeline answered. The first line also has the digests of the
models' weights.
"""

import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from tests.parity.answers import packed
from tests.parity.cases import Case, cases
from tests.parity.models import HEADS, write_model
from tests.parity.specs import MODELS

GOLDENS = Path(__file__).parent / "goldens"
VERSION = "4.57.6"


class Models:
    """Models and pipelines, each made once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.digests: dict[str, str] = {}
        self._loaded: dict[str, Any] = {}
        self._pipelines: dict[str, Any] = {}

    def folder(self, name: str) -> Path:
        folder = self._root / name
        if name not in self.digests:
            self.digests[name] = write_model(MODELS[name], folder)
        return folder

    def parts(self, name: str) -> tuple[Any, Any]:
        """Model and tokenizer."""
        folder = self.folder(name)
        if name not in self._loaded:
            model_class = getattr(transformers, HEADS[MODELS[name].task])
            model, report = model_class.from_pretrained(folder, output_loading_info=True)
            assert not report["missing_keys"], f"{name} lacks {report['missing_keys']}"
            self._loaded[name] = (
                model.eval(),
                transformers.AutoTokenizer.from_pretrained(folder, use_fast=True),
            )
        model, tokenizer = self._loaded[name]
        return model, tokenizer

    def pipeline(self, name: str) -> Any:
        """Made once: making it takes the task's prefix out of the model's configuration."""
        if name not in self._pipelines:
            model, tokenizer = self.parts(name)
            self._pipelines[name] = transformers.pipeline(
                MODELS[name].task, model=model, tokenizer=tokenizer, device="cpu"
            )
        return self._pipelines[name]


def answer(models: Models, case: Case) -> Any:
    """What transformers answers."""
    task = MODELS[case.model].task
    if task == "embeddings":
        return _embeddings(models, case)
    if task == "text-ranking":
        return _relevance(models, case)
    return models.pipeline(case.model)(case.inputs, **case.parameters)


def _embeddings(models: Models, case: Case) -> Any:
    """Pooled vectors, as sentence-transformers' Pooling and Normalize modules make them."""
    model, tokenizer = models.parts(case.model)
    rows = []
    for text in case.inputs:
        inputs = tokenizer(text, return_tensors="pt", truncation=True)
        with torch.no_grad():
            hidden = model(**inputs).last_hidden_state[0]
        row = hidden.mean(0) if case.parameters["pooling"] == "mean" else hidden[0]
        if case.parameters["normalize"]:
            row = torch.nn.functional.normalize(row, dim=0)
        rows.append(row.tolist())
    return rows


def _relevance(models: Models, case: Case) -> Any:
    """Logits of (query, text), as a cross-encoder's `predict` gets them."""
    model, tokenizer = models.parts(case.model)
    logits = []
    for text in case.inputs["texts"]:
        pair = tokenizer(case.inputs["query"], text, return_tensors="pt", truncation=True)
        with torch.no_grad():
            logits.append(model(**pair).logits[0, 0].item())
    return logits


def plain(value: Any, digits: int) -> Any:
    """As JSON has it; floats rounded."""
    if isinstance(value, dict):
        return {key: plain(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, digits) for item in value]
    if isinstance(value, float | np.floating):
        return round(float(value), digits)
    return value.item() if isinstance(value, np.generic) else value


def record(models: Models, case: Case) -> dict[str, Any]:
    vectors = MODELS[case.model].task in ("feature-extraction", "embeddings")
    found: dict[str, Any] = {"model": case.model, "parameters": case.parameters}
    try:
        found["outputs"] = packed(plain(answer(models, case), 5 if vectors else 6))
    except BaseException as error:  # a panic of the tokenizers is no Exception
        if isinstance(error, KeyboardInterrupt):
            raise
        print("  left out:", *case, f"{type(error).__name__}: {error}".split("\n")[0][:120])
    return found


def make(task: str, root: Path) -> None:
    models = Models(root)
    inputs: list[Any] = []
    records = []
    for case in cases(task):
        found = record(models, case)
        if "outputs" in found:
            if case.inputs not in inputs:
                inputs.append(case.inputs)
            records.append({**found, "inputs": inputs.index(case.inputs)})
    version = transformers.__version__
    head = {"transformers": version, "models": models.digests, "inputs": inputs}
    text = "".join(
        json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n"
        for line in (head, *records)
    )
    (GOLDENS / f"{task}.jsonl").write_text(text)
    print(f"{task}: {len(records)} cases, {len(text.encode()) // 1024} KiB")


def main() -> None:
    assert transformers.__version__ == VERSION, f"needs transformers {VERSION}"
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    GOLDENS.mkdir(exist_ok=True)
    tasks = sys.argv[1:] or sorted({spec.task for spec in MODELS.values()})
    for task in tasks:
        with tempfile.TemporaryDirectory() as temporary:
            make(task, Path(temporary))


if __name__ == "__main__":
    main()
