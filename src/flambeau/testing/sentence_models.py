"""Adds what sentence-transformers saves beside a model to a tiny one."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from flambeau.tasks.base import Arrays
from flambeau.types import JsonValue

WIDTH = 32
"""Of a tiny model's states."""


def add_modules(
    folder: Path,
    modules: Sequence[tuple[str, Mapping[str, JsonValue], Arrays]],
    *,
    transformer: Mapping[str, JsonValue] | None = None,
    model: Mapping[str, JsonValue] | None = None,
    pickled: bool = False,
) -> Path:
    """Write `modules.json` and a folder for each module: class name, configuration and weights.

    `transformer` and `model` are the settings of the first module and of the whole. `pickled`: the
    weights as torch saves them, and not as safetensors. Returns `folder`.
    """
    listed = [_listed(0, "", "Transformer")]
    for number, (kind, config, weights) in enumerate(modules, 1):
        place = folder / f"{number}_{kind}"
        place.mkdir()
        listed.append(_listed(number, place.name, kind))
        _write(place / "config.json", dict(config))
        if weights:
            _save(place, weights, pickled)
    _write(folder / "modules.json", listed)
    _write(folder / "sentence_bert_config.json", dict(transformer or {}))
    _write(folder / "config_sentence_transformers.json", dict(model or {}))
    return folder


def dense_weights(inputs: int, outputs: int, seed: int = 0) -> Arrays:
    """Random weights of a module Dense."""
    draw = np.random.default_rng(seed)
    return {
        "linear.weight": draw.normal(0, 0.3, (outputs, inputs)).astype(np.float32),
        "linear.bias": draw.normal(0, 0.3, outputs).astype(np.float32),
    }


def _listed(number: int, path: str, kind: str) -> JsonValue:
    return {
        "idx": number,
        "name": str(number),
        "path": path,
        "type": f"sentence_transformers.models.{kind}",
    }


def _save(place: Path, weights: Arrays, pickled: bool) -> None:
    if pickled:
        import torch

        tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
        torch.save(tensors, place / "pytorch_model.bin")
        return
    from safetensors.numpy import save_file

    save_file(dict(weights), place / "model.safetensors")


def _write(path: Path, value: JsonValue) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
