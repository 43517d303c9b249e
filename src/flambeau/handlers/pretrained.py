"""Loads a model folder for a task, as `from_pretrained` does, with clear errors and no noise."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch
import transformers
from huggingface_hub.utils import logging as hub_logging

from flambeau.errors import LoadError
from flambeau.types import TaskName

_CLASSES: Mapping[TaskName, str] = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "fill-mask": "AutoModelForMaskedLM",
    "zero-shot-classification": "AutoModelForSequenceClassification",
    "text-ranking": "AutoModelForSequenceClassification",
    "sentence-similarity": "AutoModel",
    "feature-extraction": "AutoModel",
    "embeddings": "AutoModel",
    "text-generation": "AutoModelForCausalLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
    "summarization": "AutoModelForSeq2SeqLM",
    "translation": "AutoModelForSeq2SeqLM",
    "image-classification": "AutoModelForImageClassification",
    "automatic-speech-recognition": "AutoModelForCTC",
}
_CLASSIFICATION = frozenset({"text-classification", "token-classification"})


class Pretrained(msgspec.Struct, frozen=True):
    """A model in evaluation mode, and the parameters that its files do not have."""

    model: Any
    new_parameters: list[str]


def load_pretrained(
    folder: Path, name: str, task: TaskName, num_labels: int | None = None
) -> Pretrained:
    """Load a folder's model for `task`, in float32, without running code of its own.

    `name` is for messages. `num_labels` counts for classification only; where it is what the model
    has, the labels' names stay. Raises `LoadError`, one line.
    """
    loader = getattr(transformers, _CLASSES[task])
    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        if task in _CLASSIFICATION and num_labels not in (None, config.num_labels):
            config.num_labels = num_labels
            config.problem_type = None
        model, info = loader.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # so that `_check_sizes` can say what is wrong
            output_loading_info=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except Exception as error:
        raise LoadError(f"{name} cannot be loaded for {task}: {_reason(error)}") from error
    _check_sizes(name, info["mismatched_keys"], num_labels)
    missing = sorted(info["missing_keys"])
    if loader is transformers.AutoModel:  # only states are used, which no pooler changes
        missing = [key for key in missing if not key.startswith("pooler.")]
    _check_missing(name, model, missing)
    return Pretrained(model.eval(), missing)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence the libraries' reports, warnings and bars: what matters is told by us."""
    verbosity = transformers.logging.get_verbosity()
    hub_verbosity = hub_logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity(logging.CRITICAL)
    hub_logging.set_verbosity(logging.ERROR)
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
        if bars:
            transformers.logging.enable_progress_bar()


def describe_new(name: str, task: TaskName, pretrained: Pretrained) -> str | None:
    """One line that warns of parameters with random values, or None."""
    new = pretrained.new_parameters
    if not new:
        return None
    listing = ", ".join(new[:4]) + (f" and {len(new) - 4} more" if len(new) > 4 else "")
    return (
        f"The {task} head of {name} is new, with random weights ({listing}): its answers mean"
        " nothing before it is fine-tuned."
    )


def _check_sizes(name: str, mismatched: Any, num_labels: int | None) -> None:
    if not mismatched:
        return
    parameter, found, expected = min(mismatched)
    advice = ""
    if num_labels is not None and expected[:1] == (num_labels,):
        advice = (
            f" num_labels is {num_labels}, but the model has {found[0]}: set that or leave it out."
        )
    raise LoadError(
        f"{name} does not fit: its {parameter} has the shape {tuple(found)} instead of"
        f" {tuple(expected)}.{advice}"
    )


def _check_missing(name: str, model: Any, missing: list[str]) -> None:
    """Raise `LoadError` where most of the model, and not a head alone, would be random."""
    sizes = {key: tensor.numel() for key, tensor in model.named_parameters()}
    lost = sum(sizes.get(key, 0) for key in missing)
    if lost * 2 > sum(sizes.values()):
        raise LoadError(
            f"{name} has no weights for most of a {type(model).__name__} (missing: {missing[0]} and"
            f" {len(missing) - 1} more): its weights belong to another kind of model."
        )


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        return "it brings Python code of its own, which is never run. Use a model of Transformers' own."
    if "Unrecognized configuration class" in text:
        return "its kind of model has no such form. Set task (or mode) to what it was made for."
    return f"{type(error).__name__}: {text[:300]}"
