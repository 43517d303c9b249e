"""The headers that every response carries (contract.md sections 3.1 and 5.6)."""

from collections.abc import Iterable

from flambeau.config import ServerConfig

_CACHE = (
    b"pragma: no-cache\r\n"
    b"cache-control: no-cache; no-store, must-revalidate, private\r\n"
    b"expires: Thu, 01 Jan 1970 00:00:00 UTC\r\n"
)


class CommonHeaders:
    """Cache headers, and cross-origin headers as configured; made once, as bytes."""

    def __init__(self, config: ServerConfig) -> None:
        named = {
            b"access-control-allow-origin": config.cors_allowed_origin,
            b"access-control-allow-methods": config.cors_allowed_methods,
            b"access-control-allow-headers": config.cors_allowed_headers,
        }
        self._cors = {
            key: b"%b: %b\r\n" % (key, " ".join(value.split()).encode("latin-1", "replace"))
            for key, value in named.items()
            if value
        }
        self._dated: Iterable[tuple[bytes, bytes]] = ()
        self._date = b""

    def dated(
        self, headers: Iterable[tuple[bytes, bytes]], date: Iterable[tuple[bytes, bytes]]
    ) -> bytes:
        """The lines that every response has beside `headers`; `date` is uvicorn's, a new one every second."""
        if date is not self._dated:
            self._dated = date
            self._date = b"".join(b"%b: %b\r\n" % pair for pair in date)
        return self._date + self.beside(headers)

    def beside(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Their lines; a cross-origin header that a handler set itself is let be."""
        if not self._cors:
            return _CACHE
        present = {name for name, _ in headers}
        return _CACHE + b"".join(line for key, line in self._cors.items() if key not in present)
