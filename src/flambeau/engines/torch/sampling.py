"""Which token comes next: Transformers' own logits processors, and random numbers per sequence.

Steps that look at the scores alone (temperature, top-k, …) run for all sequences with equal
settings at once; those that look at what was said before run for each sequence.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from flambeau.engines.generation import GenerationSettings, NewToken

_OF_SCORES_ALONE = (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)


class Sampler:
    """Chooses the tokens of one sequence. `eos_ids` end it; `kind` is equal for those alike."""

    def __init__(
        self, model: Any, prompt: Sequence[int], settings: GenerationSettings, index: int
    ) -> None:
        """`index` is the sequence's among those of its prompt."""
        options = settings.options()
        options.pop("num_return_sequences", None)
        config, _ = model._prepare_generation_config(None, **options)  # noqa: SLF001 - as `generate`
        config.max_length = len(prompt) + settings.max_new_tokens
        model._prepare_special_tokens(config, device=model.device)  # noqa: SLF001
        self.processors: LogitsProcessorList = model._get_logits_processor(  # noqa: SLF001
            config, input_ids_seq_length=len(prompt), device=model.device
        )
        self.logprobs = settings.logprobs
        self.do_sample = bool(config.do_sample)
        self.eos_ids = frozenset(_ids(config.eos_token_id))
        self.generator = torch.Generator(model.device)
        if settings.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed((settings.seed + index) % 2**63)
        alike = msgspec.structs.replace(
            settings, max_new_tokens=0, seed=None, logprobs=False, num_return_sequences=None
        )
        simple = all(isinstance(each, _OF_SCORES_ALONE) for each in self.processors)
        self.kind: object = alike if simple else id(self)
        self._ids: torch.Tensor | None = None
        if not simple:
            self._ids = torch.empty(1, config.max_length, dtype=torch.long, device=model.device)
            self._ids[0, : len(prompt)] = torch.tensor(prompt)
        self._length = len(prompt)

    @property
    def seen(self) -> torch.Tensor | None:
        """The sequence so far `[1, tokens]`, None where no step looks at it."""
        return None if self._ids is None else self._ids[:, : self._length]

    def saw(self, token: int) -> None:
        """This token was chosen."""
        if self._ids is not None and self._length < self._ids.shape[1]:
            self._ids[0, self._length] = token
        self._length += 1


def choose_tokens(samplers: Sequence[Sampler], logits: torch.Tensor) -> list[NewToken | Exception]:
    """The next token of each sequence, from its scores: a row of `logits [sequences, tokens]`.

    What cannot be chosen, because the scores leave nothing to choose from, is that row's error.
    """
    logits = logits.float()
    groups: dict[object, list[int]] = {}
    for row, sampler in enumerate(samplers):
        groups.setdefault(sampler.kind, []).append(row)
    chosen: dict[int, NewToken | Exception] = {}
    for rows in groups.values():
        chosen.update(_of_group([samplers[row] for row in rows], logits, rows))
    for row, sampler in enumerate(samplers):
        token = chosen[row]
        if isinstance(token, NewToken):
            sampler.saw(token.id)
    return [chosen[row] for row in range(len(samplers))]


def _of_group(
    samplers: Sequence[Sampler], logits: torch.Tensor, rows: Sequence[int]
) -> dict[int, NewToken | Exception]:
    try:
        own = logits if len(rows) == len(logits) else logits[list(rows)]
        ids, scores = _draw(samplers, own)
    except (RuntimeError, ValueError, IndexError) as error:
        if len(rows) == 1:
            return {rows[0]: error}
        alone = zip(samplers, rows, strict=True)
        made: dict[int, NewToken | Exception] = {}
        for sampler, row in alone:
            made |= _of_group([sampler], logits, [row])
        return made
    tokens: dict[int, NewToken | Exception] = {}
    for place, (sampler, row, token) in enumerate(zip(samplers, rows, ids, strict=True)):
        logprob = None
        if sampler.logprobs:
            logprob = float(scores[place, token] - scores[place].logsumexp(-1))
        tokens[row] = NewToken(token, logprob)
    return tokens


def _draw(samplers: Sequence[Sampler], logits: torch.Tensor) -> tuple[list[int], torch.Tensor]:
    """Token ids of sequences that are alike, and the scores that they were chosen by.

    Raises `ValueError` where nothing can be drawn.
    """
    first = samplers[0]
    scores = first.processors(first.seen, logits) if first.processors else logits
    if not first.do_sample:
        return scores.argmax(-1).tolist(), scores
    probabilities = scores.softmax(-1)
    if not torch.isfinite(probabilities).all():  # on a GPU, drawing from it ends the process
        raise ValueError("no token can be drawn: the scores are no numbers, or all excluded")
    drawn = [
        torch.multinomial(row[None], 1, generator=sampler.generator)[0, 0]
        for row, sampler in zip(probabilities, samplers, strict=True)
    ]
    return torch.stack(drawn).tolist(), scores


def _ids(value: Any) -> list[int]:
    """A configuration's id or ids."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [int(value)]
