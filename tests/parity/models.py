"""Tiny models of real architectures, the same to the bit under every version of transformers.

A checkpoint's names and shapes come from the library's own class, its numbers from the names alone;
`digest` of the weights stands in the goldens, so that a test knows that it runs the model that the
goldens were made with.
"""

import hashlib
import json
import shutil
import tempfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import transformers
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from tests.parity.families import FAMILIES, TOKENIZERS

if TYPE_CHECKING:  # what makes the goldens has transformers, but not Flambeau
    from flambeau.types import TaskName

HEADS: "dict[TaskName, str]" = {
    "text-classification": "AutoModelForSequenceClassification",
    "zero-shot-classification": "AutoModelForSequenceClassification",
    "text-ranking": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "fill-mask": "AutoModelForMaskedLM",
    "feature-extraction": "AutoModel",
    "embeddings": "AutoModel",
    "text-generation": "AutoModelForCausalLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
    "summarization": "AutoModelForSeq2SeqLM",
    "translation": "AutoModelForSeq2SeqLM",
}
_OF_CONFIG = ("bos_token_id", "pad_token_id", "eos_token_id", "decoder_start_token_id")
_EMBEDDINGS = ("embed", "shared", "wte", "wpe", "relative_attention_bias")
_GAINS = (
    ("qa_outputs", 6.0),
    ("classifier", 2.5),
    ("score", 2.5),
    ("lm_head", 2.5),
    ("query", 2.5),
    ("key", 2.5),
    ("q_proj", 2.5),
    ("k_proj", 2.5),
    ("q_lin", 2.5),
    ("k_lin", 2.5),
    (".q.", 2.5),
    (".k.", 2.5),
    ("attn.q", 2.5),
    ("attn.k", 2.5),
    ("attn", 2.0),
    ("attention", 2.0),
    ("fc2", 6.0),
)
"""How strong a layer is, by the first part of its name that fits: heads that tell texts apart, and
attention that looks at few tokens."""


@dataclass(frozen=True)
class ModelSpec:
    """A model: `config` are additions to the family's configuration."""

    family: str
    task: "TaskName"
    config: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] | None = None
    seed: str = ""


def labelled(*labels: str, **config: Any) -> dict[str, Any]:
    """The part of a configuration that names labels."""
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        **config,
    }


def write_model(spec: ModelSpec, folder: Path) -> str:
    """Write weights, configuration and tokenizer; returns the weights' digest."""
    family = FAMILIES[spec.family]
    shutil.copytree(TOKENIZERS / spec.family, folder)
    size = vocabulary_size(folder)
    config = {"model_type": spec.family, "vocab_size": size, **family.config, **spec.config}
    if spec.family == "marian":  # its padding, with which texts begin, is the last token
        config |= {"pad_token_id": size - 1, "decoder_start_token_id": size - 1}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    loaded = transformers.AutoConfig.from_pretrained(folder)
    model = getattr(transformers, HEADS[spec.task]).from_config(loaded)
    with tempfile.TemporaryDirectory() as temporary:
        # What is saved, not what the module calls its tensors: the two differ in places.
        model.save_pretrained(temporary)
        saved = load_file(Path(temporary) / "model.safetensors")
    if spec.family == "t5" and spec.config.get("tie_word_embeddings") is False:
        # transformers 5 makes only tied ones itself, but reads a head that is in the file.
        saved["lm_head.weight"] = saved["shared.weight"]
    tensors = {name: _numbers(name, value, spec.seed) for name, value in sorted(saved.items())}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config["architectures"] = [type(model).__name__]
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    if spec.generation is not None:
        same = {name: config[name] for name in _OF_CONFIG if name in config}
        generation = {**same, **spec.generation}
        (folder / "generation_config.json").write_text(json.dumps(generation, indent=1))
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(name.encode() + str(tensor.shape).encode() + tensor.tobytes())
    return digest.hexdigest()[:16]


def vocabulary_size(folder: Path) -> int:
    """How many ids a tokenizer has."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return len(json.loads((folder / "vocab.json").read_text()))
    saved: dict[str, Any] = json.loads(file.read_text())
    ids: list[int] = [token["id"] for token in saved["added_tokens"]]
    return max(len(saved["model"]["vocab"]), *(index + 1 for index in ids))


def _numbers(name: str, value: NDArray[Any], seed: str) -> NDArray[np.float32]:
    """Numbers for the tensor `name`: large enough that texts and labels get unlike scores."""
    generator = np.random.default_rng(zlib.crc32(f"{seed}/{name}".encode()))
    noise = generator.standard_normal(value.shape, dtype=np.float32)
    if value.ndim < 2:
        scale = np.float32(0.2) * noise
        return scale if name.endswith("bias") else 1 + scale
    if any(part in name for part in _EMBEDDINGS) and name.endswith(("weight", "bias")):
        return noise
    gain = next((gain for part, gain in _GAINS if part in name), 1.4)
    return noise * np.float32(gain / np.sqrt(value.shape[-1]))
