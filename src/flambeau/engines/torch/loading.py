"""Reads a model's weights into its own Transformers class."""

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CTC_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_QUESTION_ANSWERING_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from flambeau.engines.base import ModelSource
from flambeau.errors import LoadError, first_line
from flambeau.types import TaskName

logger = logging.getLogger(__name__)

_MODEL_CLASSES: dict[TaskName, Any] = {
    "text-classification": MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    "token-classification": MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    "question-answering": MODEL_FOR_QUESTION_ANSWERING_MAPPING,
    "fill-mask": MODEL_FOR_MASKED_LM_MAPPING,
    "zero-shot-classification": MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    "text-ranking": MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    "sentence-similarity": MODEL_MAPPING,
    "feature-extraction": MODEL_MAPPING,
    "embeddings": MODEL_MAPPING,
    "text-generation": MODEL_FOR_CAUSAL_LM_MAPPING,
    "text2text-generation": MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    "summarization": MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    "translation": MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    "image-classification": MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    "automatic-speech-recognition": MODEL_FOR_CTC_MAPPING,
}
"""By configuration class. Imported by name, so that a zygote that imports this file has them."""

_WITHOUT_HEAD: frozenset[TaskName] = frozenset(
    {"sentence-similarity", "feature-extraction", "embeddings"}
)
"""Tasks that want the states of a model's last layer."""

_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def load_model(source: ModelSource, device: str) -> Any:
    """The model on its device. Raises `LoadError` for everything that goes wrong."""
    if source.task not in _MODEL_CLASSES:
        raise LoadError(f"The torch engine does not run {source.task} models.")
    options: dict[str, Any] = {
        "dtype": torch.float32 if device == "cpu" else "auto",
        "output_loading_info": True,
    }
    weights = next((name for name in _WEIGHTS if (source.model_dir / name).is_file()), None)
    try:
        with _quiet_transformers():
            config = AutoConfig.from_pretrained(
                source.model_dir, local_files_only=True, trust_remote_code=False
            )
            model_class = _model_class(config, source.task)
            if "add_pooling_layer" in inspect.signature(model_class).parameters:
                options["add_pooling_layer"] = False  # its output is not used
            if weights is None:
                model, report = model_class.from_pretrained(
                    None, config=config, state_dict=_other_weights(source), **options
                )
            else:
                if ".bin" in weights:
                    _warn_pickle(weights)
                model, report = model_class.from_pretrained(
                    source.model_dir, config=config, local_files_only=True, **options
                )
    except LoadError:
        raise
    except Exception as error:
        place = weights or source.file
        raise LoadError(
            f"The {source.task} model cannot be loaded from {place}: {first_line(error)}"
        ) from error
    _check_head(model, report["missing_keys"], source.task)
    return model.to(device).eval()


def _model_class(config: Any, task: TaskName) -> type[PreTrainedModel]:
    classes = _MODEL_CLASSES[task]
    two_parts = classes is MODEL_MAPPING and config.is_encoder_decoder
    if two_parts and type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING:
        # T5's encoder can be had alone; BART's cannot, but it makes its decoder's input itself.
        classes = MODEL_FOR_TEXT_ENCODING_MAPPING
    try:
        model_class: type[PreTrainedModel] = classes[type(config)]
    except KeyError:
        raise LoadError(f"Transformers has no {task} model for {config.model_type}.") from None
    return model_class


def _other_weights(source: ModelSource) -> Any:
    """Tensors by name, from weights in a file with a name of its own, which the manifest gives."""
    file = source.file
    if file is None:
        raise LoadError(
            f"The archive has no weights: none of {', '.join(_WEIGHTS)} is there and the manifest"
            " names no file. Pack the model with --serialized-file."
        )
    if file.suffix == ".safetensors":
        return load_file(file)
    _warn_pickle(file.name)
    return torch.load(file, map_location="cpu", weights_only=True)


def _warn_pickle(name: str) -> None:
    logger.warning(
        "%s is a pickle checkpoint; only its tensors are read. Safetensors is safer and faster:"
        " save the model again with save_pretrained.",
        name,
    )


def _check_head(model: Any, missing: set[str], task: TaskName) -> None:
    """Refuse a checkpoint without the task's own layers: its answers would be random.

    Of a model without a head all that is used is its own; poolers are not used.
    """
    if task in _WITHOUT_HEAD:
        own = [key for key in sorted(missing) if not key.startswith("pooler.")]
        if own:
            raise LoadError(
                f"The checkpoint has no weights for {', '.join(own[:4])}: it is not of a"
                f" {type(model).__name__}."
            )
        return
    own = [key for key in sorted(missing) if not key.startswith(f"{model.base_model_prefix}.")]
    if own:
        raise LoadError(
            f"The checkpoint has no weights for {', '.join(own[:4])}: it is not fine-tuned for"
            f" {task}. Set task to what it was trained for, or fine-tune it first."
        )
    if missing:
        logger.warning("The checkpoint lacks %d weights, which are random now.", len(missing))


def takes_type_ids(model: Any) -> bool:
    """Whether the model tells the first text from the second by token types.

    GPT-2 accepts them too, but means something else: the vocabulary's own embeddings.
    """
    if "token_type_ids" not in inspect.signature(model.forward).parameters:
        return False
    return getattr(model.config, "type_vocab_size", 0) > 1 or model.config.model_type == "xlnet"


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bar and no report on stderr while loading: we say what matters ourselves."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        transformers_logging.enable_progress_bar()
