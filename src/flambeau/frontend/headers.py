"""The headers that every response carries (contract.md sections 3.1 and 5.6)."""

from flambeau.config import ServerConfig

_FIXED = [
    (b"pragma", b"no-cache"),
    (b"cache-control", b"no-cache; no-store, must-revalidate, private"),
    (b"expires", b"Thu, 01 Jan 1970 00:00:00 UTC"),
]


class CommonHeaders:
    """Request id, cache headers, and cross-origin headers as configured."""

    def __init__(self, config: ServerConfig) -> None:
        named = {
            b"access-control-allow-origin": config.cors_allowed_origin,
            b"access-control-allow-methods": config.cors_allowed_methods,
            b"access-control-allow-headers": config.cors_allowed_headers,
        }
        self._cors = [
            (key, " ".join(value.split()).encode("latin-1", "replace"))
            for key, value in named.items()
            if value
        ]

    def add_to(self, headers: list[tuple[bytes, bytes]], request_id: str) -> None:
        """Add them; a cross-origin header that a handler set itself is let be."""
        if self._cors:
            present = {key for key, _ in headers}
            headers += [pair for pair in self._cors if pair[0] not in present]
        headers.append((b"x-request-id", request_id.encode()))
        headers += _FIXED
