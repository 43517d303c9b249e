"""Sequences of a decoder that share forward passes, and their keys and values."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from flambeau.engines.base import pad_rows
from flambeau.engines.generation import FinishReason, Generated, NewToken, Prompt
from flambeau.engines.torch.cache import merged_cache, new_cache, rewind
from flambeau.engines.torch.sampling import Sampler


class Row:
    """One sequence: what it was asked, what it has so far. `pad` is the padding before it."""

    def __init__(self, prompt: Prompt, index: int, sampler: Sampler) -> None:
        self.prompt = prompt
        self.index = index
        self.sampler = sampler
        self.pad = 0
        self.tokens: list[NewToken] = []
        self.end: Generated | Exception | None = None

    @property
    def reserved(self) -> int:
        """How many tokens it may have in the end, its prompt's included."""
        return len(self.prompt.sequence) + self.prompt.settings.max_new_tokens

    def take(self, token: NewToken | Exception) -> None:
        """Add a token; `end` is set with the last one."""
        if isinstance(token, Exception):
            self.end = token
        elif token.id in self.sampler.eos_ids:
            self.finish("stop", token)
        else:
            self.tokens.append(token)
            try:
                wanted = self.prompt.listener(self.index, [token])
            except Exception as error:  # noqa: BLE001 - one prompt's own, as all that fails it
                self.end = error
                return
            if not wanted:
                self.finish("cancelled")
            elif len(self.tokens) >= self.prompt.settings.max_new_tokens:
                self.finish("length")

    def finish(self, reason: FinishReason, end: NewToken | None = None) -> None:
        """End with what there is."""
        self.end = Generated([token.id for token in self.tokens], reason, end)


class Decoder:
    """A decoder's forward pass as its cohorts call it."""

    def __init__(self, model: Any) -> None:
        self.model = model
        parameters = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in parameters
        self._last_only = "logits_to_keep" in parameters
        self.layers = len(DynamicCache(config=model.config).layers)

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether a model keeps what it has read as keys and values of attention, and no more."""
        if model.config.is_encoder_decoder or getattr(model, "_is_stateful", False):
            return False
        if "past_key_values" not in inspect.signature(model.forward).parameters:
            return False
        layers = DynamicCache(config=model.config).layers
        return bool(layers) and all(
            isinstance(layer, DynamicLayer)
            and type(layer).__name__ in {"DynamicLayer", "DynamicSlidingWindowLayer"}
            for layer in layers
        )

    @torch.inference_mode()
    def __call__(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Cache
    ) -> torch.Tensor:
        """Scores of the token behind the last column: `[rows, tokens]`."""
        inputs: dict[str, Any] = {"attention_mask": mask, "past_key_values": cache}
        if self._takes_positions:
            inputs["position_ids"] = positions
        if self._last_only:
            inputs["logits_to_keep"] = 1
        result: torch.Tensor = self.model(input_ids=ids, use_cache=True, **inputs).logits[:, -1]
        return result


class Cohort:
    """Rows that end in the same column of one cache. `width` counts the columns."""

    def __init__(self, decoder: Decoder, rows: list[Row]) -> None:
        """Rows that have not been read yet; `read` does it."""
        self.rows = rows
        self.width = 0
        self.decoder = decoder
        self.cache = new_cache(decoder.layers)
        self._mask = torch.zeros(0)

    def read(self, tokens: int) -> torch.Tensor | None:
        """Read the prompts, of a single one at most so many tokens more; scores once it is done.

        `[rows, tokens]`, None where there is more to read. A pass that fails leaves no trace.
        """
        prompts = [row.prompt.sequence.ids for row in self.rows]
        longest = max(map(len, prompts))
        if not self.width:
            for row, ids in zip(self.rows, prompts, strict=True):
                row.pad = longest - len(ids)
            self._set_mask(longest)
        end = longest if len(prompts) > 1 else min(longest, self.width + tokens)
        padded = torch.from_numpy(pad_rows(prompts, 0, left=True))
        logits = self._run(padded[:, self.width : end])
        return logits if self.width == longest else None

    def decode(self) -> torch.Tensor:
        """Read each row's last token; scores of the next ones. A failed pass leaves no trace."""
        return self._run(torch.tensor([[row.tokens[-1].id] for row in self.rows]))

    def bytes_per_column(self) -> int:
        """What one token's keys and values take, in all layers."""
        return sum(
            each.shape[1] * each.shape[3] * each.element_size()
            for layer in self.cache.layers
            for each in (layer.keys, layer.values)
            if each is not None
        )

    def _run(self, ids: torch.Tensor) -> torch.Tensor:
        device = self.decoder.model.device
        end = self.width + ids.shape[1]
        if end > self._mask.shape[1]:
            self._set_mask(end + max(64, end // 4))
        pads = torch.tensor([row.pad for row in self.rows])
        positions = (torch.arange(self.width, end)[None] - pads[:, None]).clamp(min=0)
        try:
            logits = self.decoder(
                ids.to(device), self._mask[:, :end], positions.to(device), self.cache
            )
        except BaseException:
            rewind(self.cache, self.width)
            raise
        self.width = end
        return logits

    def _set_mask(self, columns: int) -> None:
        pads = torch.tensor([row.pad for row in self.rows])
        mask = torch.arange(columns)[None] >= pads[:, None]
        self._mask = mask.long().to(self.decoder.model.device)

    @classmethod
    def of(cls, decoder: Decoder, rows: list[Row], width: int, cache: Cache) -> "Cohort":
        """Rows that have been read: their padding is set already."""
        cohort = cls(decoder, rows)
        cohort.width, cohort.cache = width, cache
        cohort._set_mask(width)
        return cohort


def joined(parts: Sequence[tuple[Cohort, list[Row]]]) -> Cohort:
    """One cohort of some rows of several; padding that all of a part's rows have is cut off."""
    trims = [min(row.pad for row in rows) for _, rows in parts]
    width = max(cohort.width - trim for (cohort, _), trim in zip(parts, trims, strict=True))
    kept: list[Row] = []
    sources = []
    for (cohort, rows), trim in zip(parts, trims, strict=True):
        places = {id(row): place for place, row in enumerate(cohort.rows)}
        sources.append((cohort.cache, [places[id(row)] for row in rows], trim))
        for row in rows:
            row.pad += width - cohort.width
        kept += rows
    decoder = parts[0][0].decoder
    return Cohort.of(decoder, kept, width, merged_cache(sources))
