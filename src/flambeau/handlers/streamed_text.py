"""Tokens as text while they come: whole characters, and an end where a stop string begins."""

from collections.abc import Sequence

import msgspec

from flambeau.handlers.tokenizer import TextTokenizer

_HALF = "\ufffd"
"""What a decoder makes of bytes that are no whole character yet."""
_CONTEXT = 6
"""So many tokens before the first new one are decoded along: they decide about its space."""
_MOST_PENDING = 16
"""Tokens that make no whole character are looked at again with the next one, but no more than these:
a character has four bytes at most, and a model that says nothing else must not hold up others."""


class Stop(msgspec.Struct, frozen=True):
    """A string that ends a text, which it is part of if it is to be `kept`."""

    text: str
    kept: bool = False


class StreamedText:
    """The text of one sequence, settled piece by piece.

    A piece is settled once no later token can change it, and it is no beginning of a stop string.
    """

    def __init__(
        self, tokenizer: TextTokenizer, prompt: Sequence[int], stops: Sequence[Stop] = ()
    ) -> None:
        self._stopped: list[Stop] = []
        self._tokenizer = tokenizer
        self._stops = stops
        self._longest = max((len(stop.text) for stop in stops), default=0)
        self._ids = list(prompt[-_CONTEXT:])
        self._from = 0
        self._read = len(self._ids)
        self._text = ""
        self._settled = 0

    @property
    def stopped(self) -> Stop | None:
        """The stop string that has ended the text."""
        return self._stopped[0] if self._stopped else None

    @property
    def text(self) -> str:
        """All of it so far, up to the stop string."""
        return self._text

    def add(self, ids: Sequence[int], *, last: bool = False) -> str:
        """More tokens; returns the text that is settled now, perhaps none.

        `last`: nothing follows, so that what was held back is settled too.
        """
        if self._stopped:
            return ""
        self._ids += ids
        searched = max(len(self._text) - self._longest + 1, 0)
        self._text += self._decoded(last=last)
        self._look_for_stops(searched)
        end = len(self._text)
        if not self._stopped and not last:
            end -= self._held_back()
        piece = self._text[self._settled : end]
        self._settled = max(self._settled, end)
        return piece

    def _decoded(self, *, last: bool) -> str:
        """The text of tokens that have not been read yet, if they end with a whole character."""
        before = self._tokenizer.decode(self._ids[self._from : self._read])
        whole = self._tokenizer.decode(self._ids[self._from :])
        unsettled = len(whole) <= len(before) or (whole.endswith(_HALF) and not last)
        if unsettled and len(self._ids) - self._read <= _MOST_PENDING:
            return ""
        self._from, self._read = self._read, len(self._ids)
        return whole[len(before) :]

    def _look_for_stops(self, start: int) -> None:
        found = [
            (place, stop)
            for stop in self._stops
            if (place := self._text.find(stop.text, start)) >= 0
        ]
        if found:
            place, stop = min(found, key=lambda each: each[0])
            self._stopped.append(stop)
            end = place + len(stop.text) if stop.kept else place
            self._text = self._text[:end]

    def _held_back(self) -> int:
        """How many characters at the end may be the beginning of a stop string."""
        for length in range(min(self._longest - 1, len(self._text)), 0, -1):
            tail = self._text[-length:]
            if any(stop.text.startswith(tail) for stop in self._stops if len(stop.text) > length):
                return length
        return 0
