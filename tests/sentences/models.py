"""Tiny models with the modules that sentence-transformers saves, the same to the bit everywhere."""

import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file, save_file

from flambeau.tasks.base import Arrays
from flambeau.testing.models import Architecture, tiny_model
from flambeau.testing.sentence_models import WIDTH, add_modules, dense_weights

TEXTS = [
    "the movie was great",
    "Ada Lovelace lived in London.",
    "a",
    "Jim Henson was a nice puppet and the torch carries light on and on in Paris, "
    "where the question was who lived in London.",
]
PAIRS = [["who lived in London", text] for text in TEXTS]
PROMPTS = {"query": "question: ", "document": "text: "}


class Model(NamedTuple):
    """A model's modules after the first, and its settings."""

    architecture: Architecture
    modules: list[tuple[str, dict[str, Any], Arrays]]
    transformer: dict[str, Any]
    settings: dict[str, Any]
    pickled: bool = False


def pooling(*modes: str, **config: Any) -> tuple[str, dict[str, Any], Arrays]:
    """The module Pooling as sentence-transformers 2 to 5 save it."""
    flags = {
        "cls": "cls_token",
        "max": "max_tokens",
        "mean": "mean_tokens",
        "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
        "weightedmean": "weightedmean_tokens",
        "lasttoken": "lasttoken",
    }
    chosen = {f"pooling_mode_{flag}": mode in modes for mode, flag in flags.items()}
    return "Pooling", {"word_embedding_dimension": WIDTH, **chosen, **config}, {}


def dense(inputs: int, outputs: int, function: str, **config: Any) -> Any:
    """The module Dense."""
    settings = {"in_features": inputs, "out_features": outputs, "bias": True, **config}
    settings["activation_function"] = f"torch.nn.modules.{function}"
    weights = dict(dense_weights(inputs, outputs))
    if settings.get("use_residual"):
        weights["residual.weight"] = dense_weights(inputs, outputs, 1)["linear.weight"]
    if not settings["bias"]:
        del weights["linear.bias"]
    return "Dense", settings, weights


def layer_norm(size: int) -> Any:
    """The module LayerNorm."""
    draw = np.random.default_rng(5)
    weights = {f"norm.{name}": draw.normal(1, 0.3, size) for name in ("weight", "bias")}
    return (
        "LayerNorm",
        {"dimension": size},
        {name: array.astype(np.float32) for name, array in weights.items()},
    )


NORMALIZE: Any = ("Normalize", {}, {})

MODELS = {
    "mean": Model("bert", [pooling("mean"), NORMALIZE], {}, {"prompts": PROMPTS}),
    "cls-dense": Model(
        "bert",
        [pooling("cls"), dense(WIDTH, 16, "activation.Tanh"), NORMALIZE],
        {},
        {"prompts": PROMPTS, "default_prompt_name": "query"},
    ),
    "two-modes": Model(
        "roberta",
        [
            pooling("max", "mean_sqrt_len_tokens"),
            dense(2 * WIDTH, 24, "linear.Identity"),
            layer_norm(24),
        ],
        {},
        {},
        pickled=True,
    ),
    "without-prompt": Model(
        "bert", [pooling("mean", include_prompt=False)], {}, {"prompts": PROMPTS}
    ),
    "lowered": Model(
        "distilbert",
        [pooling("weightedmean"), NORMALIZE],
        {"max_seq_length": 12, "do_lower_case": True},
        {"prompts": PROMPTS},
    ),
    "last-token": Model(
        "bert",
        [pooling("lasttoken"), dense(WIDTH, 20, "activation.GELU", bias=False, use_residual=True)],
        {},
        {"prompts": PROMPTS},
    ),
}
ACTIVATIONS = {
    "plain": {},
    "identity": {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}},
    "tanh": {"sbert_ce_default_activation_function": "torch.nn.modules.activation.Tanh"},
}


def write_model(name: str, folder: Path) -> Path:
    """A model that makes vectors."""
    model = MODELS[name]
    _set_weights(tiny_model(folder, "embeddings", model.architecture))
    return add_modules(
        folder,
        model.modules,
        transformer=model.transformer,
        model=model.settings,
        pickled=model.pickled,
    )


def write_cross_encoder(name: str, folder: Path) -> Path:
    """A model that scores pairs; `name` is that of its activation."""
    import json

    _set_weights(tiny_model(folder, "text-ranking", "bert"))
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | ACTIVATIONS[name]))
    return folder


def _set_weights(folder: Path) -> None:
    """Weights that depend on their names alone, and on no library's random numbers."""
    file = folder / "model.safetensors"
    made = {}
    for name, old in load_file(file).items():
        draw = np.random.default_rng(zlib.crc32(name.encode()))
        made[name] = draw.normal(1 if old.ndim == 1 else 0, 0.2, old.shape).astype(np.float32)
    save_file(made, file, metadata={"format": "pt"})
