"""Prompts of all open requests, continued side by side.

Each step of the loop gives every running sequence one more token. Requests that came meanwhile are
started, those for which nobody waits any more are cancelled, and whoever asked for a stream is sent
what is settled.
"""

import logging
import time
from collections.abc import Sequence

from flambeau.engines.base import TokenSequence
from flambeau.engines.generation import Generated, GenerationSettings, NewToken, Outcome
from flambeau.errors import PredictionError
from flambeau.handlers.failures import breaks_device, lacks_memory
from flambeau.handlers.isolation import free_memory, item_error
from flambeau.handlers.native_generation import (
    blamed,
    generation_settings,
    prompt_tokens,
    stops,
)
from flambeau.handlers.native_jobs import Job, Made, Request
from flambeau.handlers.native_model import NativeModel
from flambeau.handlers.streamed_text import StreamedText
from flambeau.handlers.token_events import FINISH_REASONS, Event, Token
from flambeau.handlers.tokenizer_vocabulary import joined
from flambeau.tasks.base import Continuation
from flambeau.types import JsonValue, Phases

logger = logging.getLogger(__name__)


class _Running:
    """A prompt in the session. It listens to its own tokens."""

    def __init__(self, job: Job, settings: GenerationSettings, model: NativeModel) -> None:
        self.job = job
        self.settings = settings
        self.sequence = prompt_tokens(model, job.options, job.sequence)
        self.generated = 0
        self._model = model
        self._stops = stops(job.options)
        self._texts: dict[int, StreamedText] = {}
        self._rests: dict[int, str] = {}
        """What was settled of a sequence only when it had ended."""
        self._repeated = 0
        """Tokens that a batch which is run again will tell once more."""
        self._last: Event | None = None
        """An event that waits to be the last one, because no token can follow it."""

    @property
    def request(self) -> Request:
        return self.job.request

    def __call__(self, index: int, tokens: Sequence[NewToken]) -> bool:
        """The session's listener: whether a sequence is to go on."""
        known = min(self._repeated, len(tokens))
        self._repeated -= known
        tokens = tokens[known:]
        self.generated += len(tokens)
        if not self.request.wanted():
            return False
        if not tokens or (self.request.reply is None and not self._stops):
            return True
        text = self._text(index)
        for token in tokens:
            piece = text.add([token.id])
            if self.request.reply is not None:
                self._tell(token, piece, ends=text.stopped is not None)
        return text.stopped is None

    def restart(self, *, repeats: bool) -> bool:
        """The session begins anew, perhaps to the same tokens: whether that can be told."""
        if self.request.reply is None or not self.request.reply.begun:
            self._texts, self._last, self.generated, self._repeated = {}, None, 0, 0
            return True
        self._repeated = self.generated
        return repeats

    def continuations(self, sequences: Sequence[Generated]) -> list[Continuation]:
        """What became of the prompt."""
        return [self._continuation(index, each) for index, each in enumerate(sequences)]

    def last_event(self, sequence: Generated, continuation: Continuation) -> Event:
        """The end of a stream: its last token with the whole text."""
        stopped = continuation.stop_string is not None
        reason = "stop_sequence" if stopped else FINISH_REASONS[continuation.finish_reason]
        details: dict[str, JsonValue] = {
            "finish_reason": reason,
            "generated_tokens": continuation.generated_tokens,
            "prompt_tokens": continuation.prompt_tokens,
            "seed": self.settings.seed,
        }
        text = self._text(0)
        rest = self._rests.pop(0, "") + text.add([], last=True)
        index, token = continuation.generated_tokens, None
        if self._last is not None and self._last.token is not None:
            index, token = self._last.index, self._last.token
            token = Token(token.id, token.text + rest, token.logprob, token.special)
        elif sequence.end is not None:
            end = sequence.end
            token = Token(end.id, rest, end.logprob, special=True)
            index += 1
        elif rest:
            token = Token(sequence.ids[-1], rest, None, special=False)
        return Event(index, token, continuation.text, details)

    def _text(self, index: int) -> StreamedText:
        if index not in self._texts:
            prompt = () if self._model.generates.encodes else self.sequence.ids
            self._texts[index] = StreamedText(self._model.tokenizer, prompt, self._stops)
        return self._texts[index]

    def _tell(self, token: NewToken, piece: str, *, ends: bool) -> None:
        """Send a token's event, unless it is the last one, which is to have the whole text."""
        special = not piece and self._model.tokenizer.is_special(token.id)
        event = Event(self.generated, Token(token.id, piece, token.logprob, special))
        if ends or self.generated >= self.settings.max_new_tokens:
            self._last = event
        else:
            self.request.tell(event)

    def _continuation(self, index: int, made: Generated) -> Continuation:
        tokenizer = self._model.tokenizer
        prompt = () if self._model.generates.encodes else self.sequence.ids
        text, stop = None, None
        if self._stops:
            searched = self._texts.get(index)
            if searched is None:  # beams are settled only now
                searched = StreamedText(tokenizer, prompt, self._stops)
                for token in made.ids:
                    searched.add([token])
            self._rests[index] = searched.add([], last=True)
            stop = searched.stopped
            text = searched.text if stop is not None else None
        # A stream's text is that of its tokens, in which nothing can be joined any more.
        clean = self._model.generates.cleans(self.job.options) and self.request.reply is None
        if text is not None and clean:
            text = joined(text)
        if text is None:
            # Where the end token is not a special one, the pipelines have it in their text.
            end = [made.end.id] if made.end is not None and self.job.options.pipeline else []
            text = tokenizer.decode_after(prompt, [*made.ids, *end], clean=clean)
        return Continuation(
            text=text,
            prompt_tokens=len(self.sequence.ids),
            generated_tokens=len(made.ids),
            finish_reason="length" if made.finish_reason == "length" and stop is None else "stop",
            stop_string=stop.text if stop is not None else None,
        )


class Continuations:
    """The prompts that a model continues now."""

    def __init__(self, model: NativeModel) -> None:
        self._model = model
        self._session = model.engine.session()
        self._running: dict[int, _Running] = {}
        self._compute = 0.0
        self._tokens = 0

    def step(self, waiting: Sequence[Job], max_requests: int = 0) -> list[tuple[Job, Made]]:
        """Continue what waits, at most so many requests (0: all); gives the jobs that are done.

        Raises what has left the device unusable.
        """
        started = time.monotonic()
        self._cancel(waiting)
        settled = self._start(waiting, max_requests)
        for handle, outcome in self._session.step():
            running = self._running.pop(handle)
            made = self._made(running, outcome)
            settled.append((running.job, made))
            self._tokens += len(running.sequence.ids)
            if isinstance(made, list):
                self._tokens += sum(each.generated_tokens for each in made)
        self._compute += time.monotonic() - started
        return settled

    def phases(self, reading: float) -> Phases | None:
        """Where the time went since something was finished before, once something is again."""
        if not self._tokens:
            return None
        told = Phases(reading, self._compute, 0.0, self._tokens, 0)
        self._compute, self._tokens = 0.0, 0
        return told

    def _cancel(self, waiting: Sequence[Job]) -> None:
        """Stop what nobody waits for."""
        wanted = {id(job) for job in waiting}
        for handle, running in list(self._running.items()):
            if id(running.job) not in wanted or not running.request.wanted():
                self._session.cancel(handle)
                del self._running[handle]
                self._tokens += len(running.sequence.ids) + running.generated
                logger.info(
                    "Nobody waits for a generation any more: it was stopped after %d tokens.",
                    running.generated,
                )

    def _start(self, waiting: Sequence[Job], max_requests: int) -> list[tuple[Job, Made]]:
        """Start what waits: interactive requests first. Gives those that cannot be started."""
        failed: list[tuple[Job, Made]] = []
        known = {id(running.job) for running in self._running.values()}
        requests = {id(running.request) for running in self._running.values()}
        for job in sorted(waiting, key=lambda job: bool(job.request.bulk)):
            full = max_requests and len(requests) >= max_requests
            if id(job) in known or (full and id(job.request) not in requests):
                continue
            if not job.request.wanted():
                continue
            try:
                settings = generation_settings(self._model, job.options, len(job.sequence))
                running = _Running(job, settings, self._model)
            except PredictionError as error:
                failed.append((job, error))
                continue
            requests.add(id(job.request))
            handle = self._session.start(running.sequence, settings, running)
            self._running[handle] = running
        return failed

    def _made(self, running: _Running, outcome: Outcome) -> list[Continuation] | PredictionError:
        if isinstance(outcome, Exception):
            if breaks_device(outcome):
                raise outcome
            if lacks_memory(outcome):
                free_memory()
            sequence = TokenSequence(running.sequence.ids)
            return item_error(blamed(self._model, running.job.options, sequence, outcome))
        made = running.continuations(outcome)
        if running.request.reply is not None:
            running.request.last = running.last_event(outcome[0], made[0])
        return made
