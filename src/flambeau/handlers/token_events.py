"""What a client gets of a text while it is generated: server-sent events, or plain text.

The events have the form of Hugging Face's text-generation servers: one per token, the last one with
the whole text and details.
"""

import msgspec

from flambeau.errors import PredictionError
from flambeau.types import JsonValue

EVENT_STREAM = "text/event-stream"
PLAIN_TEXT = "text/plain; charset=utf-8"

FINISH_REASONS = {"stop": "eos_token", "length": "length"}
"""Their names in a stream."""


class Token(msgspec.Struct, frozen=True):
    """A generated token and the text that is settled with it, which may be that of several."""

    id: int
    text: str
    logprob: float | None
    special: bool


class Event(msgspec.Struct, frozen=True):
    """One event. `token` is None for an end without a token of its own."""

    index: int
    token: Token | None
    generated_text: str | None = None
    details: dict[str, JsonValue] | None = None


class Reply:
    """Formats a stream. `begun` is set once something was sent."""

    def __init__(self, *, events: bool) -> None:
        self.begun = False
        self.content_type = EVENT_STREAM if events else PLAIN_TEXT
        self._events = events

    def part(self, event: Event) -> bytes:
        """What is sent for a token, or for the end; b"" where it has no text of its own."""
        if self._events:
            return _event(event)
        return event.token.text.encode() if event.token is not None else b""

    def failure(self, error: PredictionError) -> bytes:
        """The end of a stream that cannot go on: its status has been sent already."""
        if not self._events:
            return b""
        return _event({"error": error.message, "error_type": error.kind.value})


def wants_events(accept: object) -> bool:
    """Whether an `Accept` header asks for server-sent events."""
    if not isinstance(accept, str):
        return False
    kinds = (part.partition(";")[0].strip().lower() for part in accept.split(","))
    return EVENT_STREAM in kinds


def _event(value: object) -> bytes:
    return b"data:" + msgspec.json.encode(value) + b"\n\n"
