"""Batches that run from their beginning to their end: beam search, and models with an encoder.

Transformers' `generate` does the work. After each token the listeners are asked whether their
sequences go on, so that a batch for which nobody waits ends.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList
from typing_extensions import override

from flambeau.engines.base import pad_rows, row_mask
from flambeau.engines.generation import Generated, NewToken, Prompt, until_end


class Whole:
    """Runs a batch of prompts with equal settings through `generate`."""

    def __init__(self, model: Any, pad_id: int | None) -> None:
        self._model = model
        self._pad_id = pad_id
        self._encodes = bool(model.config.is_encoder_decoder)

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[Prompt]) -> list[list[Generated]]:
        """Each prompt's sequences. Raises what Transformers raises."""
        settings = prompts[0].settings
        rows = [prompt.sequence.ids for prompt in prompts]
        left = not self._encodes
        ids = torch.from_numpy(pad_rows(rows, self._pad_id or 0, left=left))
        mask = torch.from_numpy(row_mask(rows, left=left))
        before = 1 if self._encodes else ids.shape[1]
        told = _Told(prompts, before, self._eos_ids())
        with _seeded(settings.seed):
            made = self._model.generate(
                input_ids=ids.to(self._model.device),
                attention_mask=mask.to(self._model.device),
                pad_token_id=self._pad_id,
                stopping_criteria=StoppingCriteriaList([told]),
                return_dict_in_generate=True,
                output_scores=settings.logprobs,
                **settings.options(),
            )
        count = len(made.sequences) // len(prompts)
        each: list[Generated] = []
        for place, row in enumerate(made.sequences.tolist()):
            ended = until_end(row[before:], self._eos_ids())
            if place in told.left or (not told.settled and place // count in told.left):
                ended = Generated(row[before:][: told.left.get(place)], "cancelled")
            each.append(ended)
        return [each[at * count : (at + 1) * count] for at in range(len(prompts))]

    def _eos_ids(self) -> list[int]:
        eos = self._model.generation_config.eos_token_id
        return eos if isinstance(eos, list) else [eos] if eos is not None else []


class _Told(StoppingCriteria):  # type: ignore[misc]  # Transformers has no types
    """Tells each listener of its new tokens, and stops the sequences that are to stop.

    `settled`: a prompt has one row, whose tokens stay what they are; else its beams, or copies of
    it. `left`: after how many tokens a listener wanted no more, by row, or by prompt.
    """

    def __init__(self, prompts: Sequence[Prompt], before: int, eos_ids: Sequence[int]) -> None:
        self._prompts = prompts
        self._before = before
        self._eos_ids = eos_ids
        self._ended: set[int] = set()
        self.settled = True
        self.left: dict[int, int] = {}

    @override
    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        per_prompt = len(input_ids) // len(self._prompts)
        self.settled = per_prompt == 1
        for place, prompt in enumerate(self._prompts):
            if place in self._ended:
                continue
            ids: list[int] = input_ids[place * per_prompt, self._before :].tolist()
            news: list[NewToken] = []
            if self.settled and ids[-1] in self._eos_ids:
                self._ended.add(place)
                continue
            if self.settled:
                news.append(NewToken(ids[-1], _logprob(scores, place, ids[-1])))
            if not prompt.listener(0, news):
                self._ended.add(place)
                self.left[place] = len(ids)
        stop = [row // per_prompt in self.left for row in range(len(input_ids))]
        return torch.tensor(stop, device=input_ids.device)


def _logprob(scores: Any, row: int, token: int) -> float | None:
    """Of a token that was just chosen; None where `generate` was not asked to keep the scores."""
    if not scores:
        return None
    last = scores[-1][row].float()
    return float(last[token] - last.logsumexp(-1))


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Random numbers that depend on the seed alone, and leave the process's own as they were."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
