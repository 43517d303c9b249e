"""Who may do what: the one gate that every request of every listener passes, after routing.

A route takes a key of its own scope, whatever address it is served at (contract.md section 11.1).
Nothing is free unless its protocol says so with `PublicEndpoint`, or its listener does as a whole.
Without token authorization the gate still keeps web pages from changing what is served
(promises.md R16): a browser sends requests to loopback addresses for any page that asks it to.
"""

import ipaddress
from collections.abc import Set as AbstractSet
from urllib.parse import urlsplit

from starlette.types import Scope

from flambeau.errors import ErrorKind, FlambeauError
from flambeau.protocols.http import HEADER_NAMES, header
from flambeau.protocols.tokens import TOKEN_API_REFUSED
from flambeau.serving.tokens import Keyring, TokenScope, bearer_key

REFUSED = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
_FOREIGN = (
    "This request comes from a web page of another origin. Name it in cors_allowed_origin if it may"
    " manage models, or turn token authorization on."
)
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_AUTHORIZATION = b"authorization"


class Gate:
    """Checks requests; `tokens` is None where token authorization is off."""

    def __init__(self, tokens: Keyring | None, cors_allowed_origin: str = "") -> None:
        self._tokens = tokens
        self._origin = cors_allowed_origin

    def is_preflight(self, scope: Scope) -> bool:
        """Whether a browser asks what it may send; such a request cannot carry a key."""
        return (
            bool(self._origin)
            and scope["method"] == "OPTIONS"
            and bool(header(scope, b"origin"))
            and bool(header(scope, b"access-control-request-method"))
        )

    def check(self, scope: Scope, needed: AbstractSet[TokenScope]) -> None:
        """Let a request with a key of one of these scopes pass, anyone where there are none.

        Raises `FlambeauError`: UNAUTHENTICATED, WRONG_SCOPE or FOREIGN_ORIGIN. What passes has lost
        its `Authorization` header where that is the server's own: handlers have no business with it.
        """
        if self._tokens is None:
            self._check_origin(scope, needed)
            return
        given = [value for name, value in scope["headers"] if name == _AUTHORIZATION]
        if given:
            _take_away(scope)
        if not needed:
            return
        key = bearer_key(given[0].decode("latin-1")) if len(given) == 1 else ""
        found = self._tokens.scope_of(key)
        if found not in needed:
            kind = ErrorKind.UNAUTHENTICATED if found is None else ErrorKind.WRONG_SCOPE
            text = TOKEN_API_REFUSED if needed == {TokenScope.API} else REFUSED
            raise FlambeauError(kind, text)

    def _check_origin(self, scope: Scope, needed: AbstractSet[TokenScope]) -> None:
        if TokenScope.MANAGEMENT not in needed or scope["method"] in _SAFE:
            return
        origin = header(scope, b"origin")
        if not origin:
            return
        if self._origin not in {"*", origin} and not _is_own(origin, header(scope, b"host")):
            raise FlambeauError(ErrorKind.FOREIGN_ORIGIN, _FOREIGN)


def _take_away(scope: Scope) -> None:
    kept = [index for index, (name, _) in enumerate(scope["headers"]) if name != _AUTHORIZATION]
    names = scope["extensions"].get(HEADER_NAMES)
    if names:
        scope["extensions"][HEADER_NAMES] = [names[index] for index in kept]
    scope["headers"] = [scope["headers"][index] for index in kept]


def _is_own(origin: str, host: str) -> bool:
    """Whether a page was served from where it sends its request.

    A name other than `localhost` proves nothing: whoever owns it can let it point here.
    """
    try:
        parts = urlsplit(origin)
        name = parts.hostname or ""
        if parts.netloc.lower() != host.lower():
            return False
        return name == "localhost" or bool(ipaddress.ip_address(name))
    except ValueError:
        return False
