"""Runs a traced model, as TorchServe's Transformers example saves it.

Such a model takes `(input_ids, attention_mask)` and nothing else, and knows neither its outputs'
names nor its configuration.
"""

import logging
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from flambeau.engines.base import (
    CPU_LIMITS,
    GPU_LIMITS,
    ModelSource,
    Outputs,
    RowLimits,
    TokenSequence,
    count_padding,
    forward_in_groups,
    pad_rows,
    pick_device,
    row_mask,
)
from flambeau.engines.generation import (
    AtOnce,
    Generated,
    GenerationSettings,
    NewToken,
    Prompt,
    Session,
    until_end,
)
from flambeau.errors import ErrorKind, LoadError, PredictionError, first_line

if TYPE_CHECKING:
    from flambeau.types import Precision

logger = logging.getLogger(__name__)

_PROBE_TOLERANCE = 1e-3
_PROBE_TOKENS = 8


class Engine:
    """Padded batches of rows of about one length.

    Tracing fixes some models to the shape of the row they were traced with. A probe at load finds
    out, and such a model then gets one row at a time, padded to `max_length`.
    """

    forks = True

    def __init__(self, source: ModelSource) -> None:
        self._source = source
        self.device = pick_device(source.gpu, cuda_available=torch.cuda.is_available())
        self.padding = 0
        self.precision: Precision = "fp32"
        self._limits = CPU_LIMITS if self.device == "cpu" else GPU_LIMITS
        self._model = self._load()
        self._fixed_width = 0 if self._takes_any_shape() else source.max_length
        if self._fixed_width:
            logger.warning(
                "The TorchScript model takes only the shape it was traced with: each text runs"
                " alone, padded to %d tokens. Trace it again with flambeau prepare, or save it"
                " with save_pretrained.",
                self._fixed_width,
            )

    @property
    def limits(self) -> RowLimits | None:
        """See `engines.base.Engine`."""
        alone = self._source.pad_id is None or self._fixed_width
        return None if alone else self._limits

    def begin(self, threads: int) -> None:
        """Nothing here depends on the number of threads: torch's own are set."""

    def forward(self, sequences: Sequence[TokenSequence]) -> list[Outputs]:
        """See `engines.base.Engine`. Token types cannot be given to a traced model."""
        return forward_in_groups(
            sequences, self.limits, self._forward_rows, per_token=self._source.per_token
        )

    def session(self) -> Session:
        """See `engines.base.Engine`. A traced model has no cache: every step reads all tokens."""
        return AtOnce(self._generate, {})

    def _load(self) -> Any:
        if self._source.precision not in (None, "fp32"):
            raise LoadError(
                f"precision is {self._source.precision}, but a TorchScript model computes as it was"
                " traced. Remove the setting, or save the model with save_pretrained."
            )
        file = self._source.file
        if file is None:
            raise LoadError(
                "The archive has no TorchScript file: the manifest names none or it is not there."
                " Pack the traced model with --serialized-file."
            )
        load: Any = torch.jit.load  # not annotated in torch
        try:
            with warnings.catch_warnings():
                # PyTorch would rather have torch.export; the archive's user cannot change that.
                warnings.simplefilter("ignore", DeprecationWarning)
                return load(str(file), map_location=self.device).eval()
        except (RuntimeError, ValueError) as error:
            raise LoadError(
                f"{file.name} cannot be loaded as TorchScript: {first_line(error)} If it holds weights,"
                " set save_mode: pretrained."
            ) from error

    def _forward_rows(self, rows: list[TokenSequence]) -> dict[str, npt.NDArray[np.float32]]:
        self.padding += count_padding(rows, self._fixed_width)
        tensors = self._run([row.ids for row in rows], width=self._fixed_width)
        # A traced model may give more than the task needs, such as a cache.
        named = zip(self._source.outputs, tensors, strict=False)
        return {name: tensor.float().cpu().numpy() for name, tensor in named}

    @torch.inference_mode()
    def _run(self, rows: list[list[int]], *, width: int = 0) -> list[torch.Tensor]:
        """The model's output tensors for padded rows, in the order that the model has them."""
        ids = torch.from_numpy(pad_rows(rows, self._source.pad_id or 0, width=width))
        mask = torch.from_numpy(row_mask(rows, width=width))
        result = self._model(ids.to(self.device), mask.to(self.device))
        if isinstance(result, torch.Tensor):
            return [result]
        return list(result.values() if isinstance(result, dict) else result)

    def _takes_any_shape(self) -> bool:
        """Whether short rows, several at once, give what one row padded to `max_length` gives."""
        first = self._source.pad_id or 0
        row = [
            first + 1 + place % 3 for place in range(min(_PROBE_TOKENS, self._source.max_length))
        ]
        try:
            short = self._run([row, row[:-1]])[0][0]
            full = self._run([row], width=self._source.max_length)[0][0]
        except RuntimeError:
            return False
        if self._source.per_token:
            short, full = short[: len(row)], full[: len(row)]
        return bool(torch.allclose(short, full, rtol=_PROBE_TOLERANCE, atol=_PROBE_TOLERANCE))

    def _generate(self, prompts: Sequence[Prompt]) -> list[list[Generated]]:
        """Append token after token. Rows are padded on the right, so that positions hold."""
        settings = _checked(prompts[0].settings)
        self.padding += count_padding([each.sequence for each in prompts], self._fixed_width)
        generator = torch.Generator()
        if settings.seed is None:
            generator.seed()
        else:
            generator.manual_seed(settings.seed)
        processors = _processors(settings)
        texts = [list(prompt.sequence.ids) for prompt in prompts]
        running = list(range(len(prompts)))
        for _ in range(settings.max_new_tokens):
            logits = self._last_logits([texts[index] for index in running])
            if settings.do_sample:
                scores = processors(torch.empty(0, dtype=torch.long), logits)
                chosen = torch.multinomial(scores.softmax(-1), 1, generator=generator)[:, 0]
            else:
                chosen = logits.argmax(-1)
            for index, token in zip(list(running), chosen.tolist(), strict=True):
                texts[index].append(token)
                ends = token in self._source.eos_ids
                if ends or not prompts[index].listener(0, [NewToken(token)]):
                    running.remove(index)
            if not running:
                break
        return [
            [until_end(text[len(prompt.sequence) :], self._source.eos_ids)]
            for text, prompt in zip(texts, prompts, strict=True)
        ]

    def _last_logits(self, texts: list[list[int]]) -> torch.Tensor:
        """The scores of each text's next token, in float32 on the CPU."""
        if self._fixed_width:
            return torch.stack([self._last_of([text], self._fixed_width)[0] for text in texts])
        return self._last_of(texts, 0)

    def _last_of(self, texts: list[list[int]], width: int) -> torch.Tensor:
        logits = self._run(texts, width=width)[0]
        last = torch.tensor([len(text) - 1 for text in texts], device=logits.device)
        return logits[torch.arange(len(texts), device=logits.device), last].float().cpu()


_SUPPORTED = frozenset(
    {"max_new_tokens", "do_sample", "temperature", "top_k", "top_p", "seed", "logprobs"}
)


_WITHOUT_EFFECT = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "min_length": 0,
    "min_new_tokens": 0,
}


def _checked(settings: GenerationSettings) -> GenerationSettings:
    """The settings, if this engine has what they ask for. Raises `PredictionError`."""
    asked = sorted(
        name
        for name, value in settings.options().items()
        if name not in _SUPPORTED and value != _WITHOUT_EFFECT.get(name)
    )
    if asked:
        raise PredictionError(
            f"A TorchScript model cannot generate with {', '.join(asked)}. Allowed:"
            f" {', '.join(sorted(_SUPPORTED - {'logprobs'}))}.",
            ErrorKind.INVALID_INPUT,
        )
    return settings


def _processors(settings: GenerationSettings) -> LogitsProcessorList:
    """Transformers' own sampling steps, in its order."""
    processors = LogitsProcessorList()
    if settings.temperature is not None and settings.temperature != 1.0:
        processors.append(TemperatureLogitsWarper(settings.temperature))
    if settings.top_k:
        processors.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p is not None and settings.top_p < 1.0:
        processors.append(TopPLogitsWarper(settings.top_p))
    return processors
