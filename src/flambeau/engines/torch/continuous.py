"""Continuous batching of decoders: sequences join and leave a running batch between two tokens.

Transformers 5 has continuous batching of its own (`generate_batch`). It was measured and not taken
(docs/tasks/text-generation.md): one seed for all, sampling parameters per request for three of its
logits processors only and the others dropped, a thread of its own that one failure ends for
everybody, and 1.4 times (GPT-2 base) to 15 times (tiny models) the CPU time of padded batches.
What is used here are the models, the logits processors and the cache interface of Transformers.

Rows run in cohorts, each of which costs one forward pass a step. A cohort pads its rows to the
longest; rows go together as long as reading the padding costs less than reading the weights again.
"""

import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch

from flambeau.engines.base import GENERATION_LIMITS, TokenSequence, group_by_length
from flambeau.engines.generation import (
    AtOnce,
    Generated,
    GenerationSettings,
    Listener,
    Outcome,
    Prompt,
)
from flambeau.engines.torch.cohort import Cohort, Decoder, Row, joined
from flambeau.engines.torch.sampling import Sampler, choose_tokens

READ_TOKENS = 512
"""Prompt tokens that one step reads beside the running sequences, which wait meanwhile."""

CPU_CACHE_BYTES = 2 * 1024**3
GPU_CACHE_SHARE = 0.7
"""What keys and values may take: bytes on a CPU, a share of what is free on a GPU."""


class Continuous:
    """See `engines.generation.Session`. Beam search goes through `whole`, a batch at a time."""

    def __init__(self, model: Any, whole: AtOnce, *, alone: bool) -> None:
        """`alone`: rows must not be padded, because positions depend on the longest."""
        self._decoder = Decoder(model)
        self.defaults = whole.defaults
        self._whole = whole
        self._alone = alone
        self._weights = sum(each.numel() * each.element_size() for each in model.parameters())
        self._token_bytes = 0
        self._waiting: dict[int, Prompt] = {}
        self._reading: list[Cohort] = []
        self._running: list[Cohort] = []
        self._unfinished: dict[int, list[Row]] = {}
        self._numbers = itertools.count(1)
        self._failed: list[tuple[int, Outcome]] = []
        self._budget = _cache_bytes(model.device)

    def __len__(self) -> int:
        return len(self._waiting) + len(self._unfinished) + len(self._whole)

    def start(self, prompt: TokenSequence, settings: GenerationSettings, listener: Listener) -> int:
        """See `Session`."""
        taken = Prompt(next(self._numbers), prompt, settings, listener)
        if (settings.num_beams or self.defaults.get("num_beams") or 1) > 1:
            self._whole.add(taken)
        else:
            self._waiting[taken.handle] = taken
        return taken.handle

    def cancel(self, handle: int) -> None:
        """See `Session`: its rows leave at once."""
        self._whole.cancel(handle)
        self._waiting.pop(handle, None)
        if self._unfinished.pop(handle, None) is not None:
            self._drop(lambda row: row.prompt.handle == handle)

    def step(self) -> list[tuple[int, Outcome]]:
        """See `Session`."""
        for cohort in list(self._running):
            self._decode(cohort)
        self._begin()
        room = READ_TOKENS
        while self._reading and room > 0:
            room -= self._read(self._reading[0], room)
        self._gather()
        failed, self._failed = self._failed, []
        return [*failed, *self._finished(), *self._whole.step()]

    def _decode(self, cohort: Cohort) -> None:
        """One more token for each row. Where that raises, its halves go on from where it was."""
        try:
            logits = cohort.decode()
        except Exception as error:  # noqa: BLE001 - the session's caller judges it
            self._running.remove(cohort)
            if len(cohort.rows) == 1:
                cohort.rows[0].end = error
                return
            halves = [joined([(cohort, rows)]) for rows in _halves(cohort.rows)]
            self._running += halves
            for half in halves:
                self._decode(half)
        else:
            _take(cohort, logits)

    def _read(self, cohort: Cohort, room: int) -> int:
        """Read prompts, of a long one a part; returns how many tokens were read."""
        before = cohort.width
        try:
            logits = cohort.read(room)
        except Exception as error:  # noqa: BLE001 - as above
            self._reading.remove(cohort)
            if len(cohort.rows) == 1:
                cohort.rows[0].end = error
                return 0
            self._reading[:0] = [Cohort(self._decoder, rows) for rows in _halves(cohort.rows)]
            return 0
        self._token_bytes = cohort.bytes_per_column()
        if logits is not None:
            self._reading.remove(cohort)
            self._running.append(cohort)
            _take(cohort, logits)
        return (cohort.width - before) * len(cohort.rows)

    def _begin(self) -> None:
        """Let waiting prompts be read: those at the head of the line, as memory allows."""
        if self._reading:
            return
        rows: list[Row] = []
        tokens = 0
        for prompt in list(self._waiting.values()):
            tokens += len(prompt.sequence) * _sequences(prompt)
            if (rows and tokens > READ_TOKENS) or not self._fits(prompt):
                break
            del self._waiting[prompt.handle]
            rows += self._rows(prompt)
        lengths = [len(row.prompt.sequence) for row in rows]
        groups = [[place] for place in range(len(rows))]
        if not self._alone:
            groups = group_by_length(lengths, GENERATION_LIMITS)
        self._reading += [Cohort(self._decoder, [rows[at] for at in group]) for group in groups]

    def _rows(self, prompt: Prompt) -> list[Row]:
        """A prompt's sequences. One that cannot be set up is finished with its error."""
        model = self._decoder.model
        rows = self._unfinished[prompt.handle] = []
        for index in range(_sequences(prompt)):
            try:
                sampler = Sampler(model, prompt.sequence.ids, prompt.settings, index)
            except Exception as error:  # noqa: BLE001 - as above
                del self._unfinished[prompt.handle]
                self._failed.append((prompt.handle, error))
                return []
            rows.append(Row(prompt, index, sampler))
        return list(rows)

    def _fits(self, prompt: Prompt) -> bool:
        """Whether a prompt's keys and values will find room beside the others'; alone, always."""
        running = [row for rows in self._unfinished.values() for row in rows]
        if not running:
            return True
        tokens = sum(row.reserved for row in running)
        new = len(prompt.sequence) + prompt.settings.max_new_tokens
        return (tokens + new * _sequences(prompt)) * self._token_bytes <= self._budget

    def _gather(self) -> None:
        """Drop rows that are finished; let cohorts run together where that is cheaper."""
        self._drop(lambda row: row.end is not None)
        if self._alone:
            return
        cohorts = sorted(self._running, key=lambda cohort: cohort.width)
        merged: list[list[Cohort]] = []
        for cohort in cohorts:
            if merged and self._padding([*merged[-1], cohort]) <= self._weights:
                merged[-1].append(cohort)
            else:
                merged.append([cohort])
        self._running = [
            group[0] if len(group) == 1 else joined([(each, each.rows) for each in group])
            for group in merged
        ]

    def _padding(self, cohorts: Sequence[Cohort]) -> int:
        """Bytes of padding that each step would read, if these ran together."""
        width = max(cohort.width for cohort in cohorts)
        columns = sum(width - cohort.width + row.pad for cohort in cohorts for row in cohort.rows)
        return columns * self._token_bytes

    def _drop(self, leaves: Callable[[Row], bool]) -> None:
        """Take rows out of their cohorts, and free what they held."""
        for cohorts in (self._running, self._reading):
            kept: list[Cohort] = []
            for cohort in cohorts:
                staying = [row for row in cohort.rows if not leaves(row)]
                if len(staying) == len(cohort.rows):
                    kept.append(cohort)
                elif staying and cohort.width:
                    kept.append(joined([(cohort, staying)]))
                elif staying:
                    kept.append(Cohort(self._decoder, staying))
            cohorts[:] = kept

    def _finished(self) -> list[tuple[int, Outcome]]:
        finished: list[tuple[int, Outcome]] = []
        for handle, rows in list(self._unfinished.items()):
            failure = next((row.end for row in rows if isinstance(row.end, Exception)), None)
            if failure is not None:
                self.cancel(handle)
                finished.append((handle, failure))
                continue
            ends = [row.end for row in rows if isinstance(row.end, Generated)]
            if len(ends) == len(rows):
                del self._unfinished[handle]
                finished.append((handle, ends))
        return finished


def _take(cohort: Cohort, logits: torch.Tensor) -> None:
    tokens = choose_tokens([row.sampler for row in cohort.rows], logits)
    for row, token in zip(cohort.rows, tokens, strict=True):
        row.take(token)


def _halves(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    middle = len(rows) // 2
    return rows[:middle], rows[middle:]


def _sequences(prompt: Prompt) -> int:
    return prompt.settings.num_return_sequences or 1


def _cache_bytes(device: torch.device) -> float:
    """What keys and values may take on this device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] * GPU_CACHE_SHARE
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(CPU_CACHE_BYTES, memory / 4)
