"""Bytes of request bodies that are held at once: by a model, and by the server."""

from flambeau.errors import ErrorKind, FlambeauError


class HeldBytes:
    """A count of bytes with a bound, `key` of the configuration.

    A body is let in where there is room for it, or where nothing else is held: one that is allowed
    at all is never refused for ever.
    """

    def __init__(self, limit: int, key: str) -> None:
        self.held = 0
        self._limit = limit
        self._key = key

    def check(self, size: int) -> None:
        """Raise `FlambeauError` (OVERLOADED) where there is no room for so many bytes more."""
        if self.held and self.held + size > self._limit:
            text = (
                f"requests of {self.held} bytes wait already, and this one has {size};"
                f" the limit is {self._key}={self._limit}"
            )
            raise FlambeauError(ErrorKind.OVERLOADED, text, retry_after=1)

    def add(self, size: int) -> None:
        """So many bytes more are held; `check` them first."""
        self.held += size

    def give_back(self, size: int) -> None:
        """So many bytes are held no more."""
        self.held -= size
