"""TorchServe's token API: `/token?type=management|inference` makes a new key (contract.md section 11.2).

Open to the holder of the `API` key only. The answer is TorchServe's, an empty line: the new key is
in the key file, for those who may read it, and not in a response that proxies and shells keep.
"""

import asyncio
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send

from flambeau.errors import ErrorKind, FlambeauError, StorageError
from flambeau.protocols.http import Endpoint, respond
from flambeau.protocols.openapi import Operation
from flambeau.serving.tokens import Tokens, TokenScope

TOKEN_API_REFUSED = (
    "Token Authentication failed. Token either incorrect, expired, or not provided correctly"  # noqa: S105  # TorchServe's text
)
_RENEWABLE = {"management": TokenScope.MANAGEMENT, "inference": TokenScope.INFERENCE}


class TokenApi:
    """The token API over HTTP; TorchServe's API description does not show it either."""

    operations: tuple[Operation, ...] = ()

    def __init__(self, tokens: Tokens, renewed: Callable[[], Awaitable[None]]) -> None:
        """`renewed` is awaited before a renewal is answered: the new key counts everywhere then."""
        self._tokens = tokens
        self._renewed = renewed
        self._renewing = asyncio.Lock()

    def endpoint(self, method: str, segments: list[str]) -> Endpoint | None:  # noqa: ARG002
        """`/token`, with every method."""
        return self.renew if segments == ["token"] else None

    async def renew(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Replace the key of the scope that `type` names."""
        named = parse_qs(scope["query_string"].decode("latin-1")).get("type", [""])[0]
        if named not in _RENEWABLE:
            raise FlambeauError(ErrorKind.INVALID_KEY_TYPE, TOKEN_API_REFUSED)
        try:
            async with self._renewing:
                await asyncio.to_thread(self._tokens.renew, _RENEWABLE[named])
                await self._renewed()
        except OSError as error:
            raise StorageError(
                "The key file cannot be written, the old key stays", error
            ) from error
        await respond(send, 200, b"\n", "application/json")
