"""What engines that generate share: settings, tokens, and the session in which sequences run.

A session holds the sequences that are being continued. `step` gives each of them its next token; a
sequence that is started meanwhile joins with the next step, one that is finished or cancelled
leaves with it. What a sequence gets does not depend on its neighbours.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from flambeau.engines.base import GENERATION_LIMITS, TokenSequence, group_by_length

FinishReason = Literal["stop", "length", "cancelled"]
"""An end token; out of tokens; its listener, or whoever called `cancel`, wanted no more."""


class GenerationSettings(msgspec.Struct, frozen=True):
    """How one prompt is continued. None: the model's own `generation_config.json` says.

    The names are those of Transformers' `GenerationConfig`. `max_new_tokens` and `min_new_tokens`
    do not count the prompt. With `logprobs`, tokens carry their log-probability. `seed` makes
    sampling repeatable; with several sequences per prompt, the one at index i has the seed + i.
    """

    max_new_tokens: int
    min_new_tokens: int | None = None
    min_length: int | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    num_beams: int | None = None
    num_return_sequences: int | None = None
    length_penalty: float | None = None
    early_stopping: bool | Literal["never"] | None = None
    forced_bos_token_id: int | None = None
    bad_words_ids: tuple[tuple[int, ...], ...] | None = None
    seed: int | None = None
    logprobs: bool = False

    def options(self) -> dict[str, object]:
        """What Transformers' `generate` is told."""
        given = msgspec.structs.asdict(self)
        del given["seed"], given["logprobs"]
        if self.bad_words_ids is not None:
            given["bad_words_ids"] = [list(ids) for ids in self.bad_words_ids]
        return {name: value for name, value in given.items() if value is not None}


class NewToken(msgspec.Struct, frozen=True):
    """A generated token. `logprob` is that of the scores it was chosen by; None: nobody asked."""

    id: int
    logprob: float | None = None


class Generated(msgspec.Struct, frozen=True):
    """The tokens after one prompt, without the end token, and why they end. `end`: that token."""

    ids: list[int]
    finish_reason: FinishReason
    end: NewToken | None = None


Listener = Callable[[int, Sequence[NewToken]], bool]
"""Is told of each step: the sequence's index among its prompt's, and its new tokens, none where
they are not settled yet, as in beam search. Returns whether the sequence is to go on.

It may have a method `restart(*, repeats: bool) -> bool`: the prompt begins anew because its batch
failed, and if it `repeats`, with the same tokens. False: what was told cannot be taken back."""

Outcome = list[Generated] | Exception
"""The sequences of one prompt, or what failed it."""


class Session(Protocol):
    """The sequences that an engine continues. Not thread-safe.

    `defaults` are the model's own settings, by the names of Transformers' `GenerationConfig`.
    """

    defaults: Mapping[str, Any]

    def start(self, prompt: TokenSequence, settings: GenerationSettings, listener: Listener) -> int:
        """Take a prompt; returns the number by which it is called from now on."""

    def cancel(self, handle: int) -> None:
        """Forget a prompt: its outcome is not told any more. Unknown numbers are none."""

    def step(self) -> list[tuple[int, Outcome]]:
        """Give each running sequence its next token; returns the prompts that are finished.

        What fails one prompt is its own outcome. Raises nothing.
        """

    def __len__(self) -> int:
        """How many prompts are not finished."""


def no_listener(_index: int, _tokens: Sequence[NewToken]) -> bool:
    """For a prompt whose tokens matter when they are all there."""
    return True


def generate_all(
    session: Session, prompts: Sequence[TokenSequence], settings: Sequence[GenerationSettings]
) -> list[list[Generated]]:
    """Each prompt's sequences, in order. Raises the first prompt's failure, if there is one.

    The session must be idle.
    """
    handles = [session.start(*each, no_listener) for each in zip(prompts, settings, strict=True)]
    outcomes: dict[int, Outcome] = {}
    while len(session):
        outcomes.update(session.step())
    made: list[list[Generated]] = []
    for handle in handles:
        outcome = outcomes[handle]
        if isinstance(outcome, Exception):
            raise outcome
        made.append(outcome)
    return made


class Prompt(msgspec.Struct, frozen=True):
    """A prompt that waits in a session, or runs."""

    handle: int
    sequence: TokenSequence
    settings: GenerationSettings
    listener: Listener


class AtOnce:
    """A session for models that can only run a batch from its beginning to its end.

    `run` continues prompts with equal settings, of about one length, and tells their listeners
    after each token. A step is one such batch. A seeded prompt runs alone: its random numbers must
    not depend on its neighbours.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Prompt]], list[list[Generated]]],
        defaults: Mapping[str, Any],
    ) -> None:
        self.defaults = defaults
        self._run = run
        self._waiting: dict[int, Prompt] = {}
        self._numbers = itertools.count(1)

    def start(self, prompt: TokenSequence, settings: GenerationSettings, listener: Listener) -> int:
        """See `Session`."""
        handle = next(self._numbers)
        self.add(Prompt(handle, prompt, settings, listener))
        return handle

    def add(self, prompt: Prompt) -> None:
        """Take a prompt that has its number already."""
        self._waiting[prompt.handle] = prompt

    def cancel(self, handle: int) -> None:
        """See `Session`. A batch that runs asks its listeners."""
        self._waiting.pop(handle, None)

    def step(self) -> list[tuple[int, Outcome]]:
        """See `Session`."""
        group = self._next_group()
        for prompt in group:
            del self._waiting[prompt.handle]
        return self._run_isolated(group) if group else []

    def __len__(self) -> int:
        return len(self._waiting)

    def _next_group(self) -> list[Prompt]:
        """The oldest prompt, and those that may run with it."""
        if not self._waiting:
            return []
        oldest, *others = self._waiting.values()
        if oldest.settings.seed is not None:
            return [oldest]
        alike = [oldest, *(each for each in others if each.settings == oldest.settings)]
        groups = group_by_length([len(each.sequence) for each in alike], GENERATION_LIMITS)
        return [alike[index] for index in next(group for group in groups if 0 in group)]

    def _run_isolated(self, group: Sequence[Prompt]) -> list[tuple[int, Outcome]]:
        """Halve a batch that raises until only the guilty ones fail."""
        try:
            made = self._run(group)
            return [(prompt.handle, each) for prompt, each in zip(group, made, strict=True)]
        except Exception as error:  # noqa: BLE001 - the session's caller judges it
            if len(group) == 1:
                return [(group[0].handle, error)]
            again: list[Prompt] = []
            lost: list[tuple[int, Outcome]] = []
            for prompt in group:
                if self._restarts(prompt):
                    again.append(prompt)
                else:
                    lost.append((prompt.handle, error))
        middle = (len(again) + 1) // 2
        halves = [half for half in (again[:middle], again[middle:]) if half]
        return lost + [outcome for half in halves for outcome in self._run_isolated(half)]

    def _restarts(self, prompt: Prompt) -> bool:
        """Whether a prompt can begin anew."""
        restart = getattr(prompt.listener, "restart", None)
        settings = prompt.settings
        sampled = settings.do_sample
        if sampled is None:
            sampled = bool(self.defaults.get("do_sample"))
        return restart is None or restart(repeats=not sampled or settings.seed is not None)


def until_end(ids: Sequence[int], eos_ids: Sequence[int]) -> Generated:
    """Cut generated tokens at the first end token."""
    for place, token in enumerate(ids):
        if token in eos_ids:
            return Generated(list(ids[:place]), "stop", NewToken(token))
    return Generated(list(ids), "length")
