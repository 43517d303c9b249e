"""Runs a model's own Transformers class in PyTorch: safetensors and `save_pretrained` folders."""

import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_QUESTION_ANSWERING_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    AutoConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from flambeau.engines.base import (
    CPU_LIMITS,
    GPU_LIMITS,
    Generated,
    GenerationSettings,
    ModelSource,
    Outputs,
    TokenSequence,
    count_padding,
    forward_in_groups,
    generate_in_groups,
    pad_rows,
    pick_device,
    row_mask,
    until_end,
)
from flambeau.errors import LoadError, first_line
from flambeau.types import TaskName

logger = logging.getLogger(__name__)

_MODEL_CLASSES: dict[TaskName, Any] = {
    "text-classification": MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    "token-classification": MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    "question-answering": MODEL_FOR_QUESTION_ANSWERING_MAPPING,
    "text-generation": MODEL_FOR_CAUSAL_LM_MAPPING,
}
"""By configuration class. Imported by name, so that a zygote that imports this file has them."""

_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


class Engine:
    """Padded batches of rows of about one length, in float32 on a CPU."""

    def __init__(self, source: ModelSource) -> None:
        self._source = source
        self.device = pick_device(source.gpu, cuda_available=torch.cuda.is_available())
        self.padding = 0
        self._limits = CPU_LIMITS if self.device == "cpu" else GPU_LIMITS
        self._model = _load_model(source, self.device)
        if self._model.config.pad_token_id is None:
            # GPT-2's heads find the last real token by it and refuse batches without one.
            self._model.config.pad_token_id = source.pad_id
        self._takes_type_ids = _takes_type_ids(self._model)

    def begin(self) -> None:
        """Nothing here depends on the number of threads."""

    def forward(self, sequences: Sequence[TokenSequence]) -> list[Outputs]:
        """See `engines.base.Engine`."""
        limits = None if self._source.pad_id is None else self._limits
        return forward_in_groups(
            sequences, limits, self._forward_rows, per_token=self._source.per_token
        )

    def generate(
        self, prompts: Sequence[TokenSequence], settings: Sequence[GenerationSettings]
    ) -> list[Generated]:
        """See `engines.base.Engine`. Uses the model's own `generation_config.json`."""
        return generate_in_groups(prompts, settings, self._generate_rows)

    @torch.inference_mode()
    def _forward_rows(self, rows: list[TokenSequence]) -> dict[str, npt.NDArray[np.float32]]:
        inputs = self._tensors(rows, left=False)
        if self._takes_type_ids and all(row.type_ids for row in rows):
            type_ids = pad_rows([row.type_ids for row in rows], 0)
            inputs["token_type_ids"] = torch.from_numpy(type_ids).to(self.device)
        result = self._model(**inputs)
        return {name: result[name].float().cpu().numpy() for name in self._source.outputs}

    @torch.inference_mode()
    def _generate_rows(
        self, rows: list[TokenSequence], settings: GenerationSettings
    ) -> list[Generated]:
        inputs = self._tensors(rows, left=True)
        options = {
            name: value
            for name in ("do_sample", "temperature", "top_k", "top_p")
            if (value := getattr(settings, name)) is not None
        }
        with _seeded(settings.seed):
            result = self._model.generate(
                **inputs,
                max_new_tokens=settings.max_new_tokens,
                pad_token_id=self._source.pad_id,
                **options,
            )
        eos = self._model.generation_config.eos_token_id
        eos_ids = eos if isinstance(eos, list) else [eos] if eos is not None else []
        width = inputs["input_ids"].shape[1]
        return [until_end(row[width:], eos_ids) for row in result.tolist()]

    def _tensors(self, rows: list[TokenSequence], *, left: bool) -> dict[str, torch.Tensor]:
        ids = [row.ids for row in rows]
        self.padding += count_padding(rows)
        return {
            "input_ids": torch.from_numpy(pad_rows(ids, self._source.pad_id or 0, left=left)).to(
                self.device
            ),
            "attention_mask": torch.from_numpy(row_mask(ids, left=left)).to(self.device),
        }


def _load_model(source: ModelSource, device: str) -> Any:
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
    try:
        model_class: type[PreTrainedModel] = _MODEL_CLASSES[task][type(config)]
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
    """Refuse a checkpoint without the task's own layers: its answers would be random."""
    own = [key for key in sorted(missing) if not key.startswith(f"{model.base_model_prefix}.")]
    if own:
        raise LoadError(
            f"The checkpoint has no weights for {', '.join(own[:4])}: it is not fine-tuned for"
            f" {task}. Set task to what it was trained for, or fine-tune it first."
        )
    if missing:
        logger.warning("The checkpoint lacks %d weights, which are random now.", len(missing))


def _takes_type_ids(model: Any) -> bool:
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


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Random numbers that depend on the seed alone, and leave the process's own as they were."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
