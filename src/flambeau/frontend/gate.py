"""Who may do what: the one gate that every request of every listener passes, after routing.

A route takes a key of its own scope, whatever address it is served at (contract.md section 11.1).
Nothing is free unless its protocol says so with `PublicEndpoint`, or its listener does as a whole.
Without token authorization the gate still keeps web pages from changing what is served
(promises.md R16): a browser sends requests to loopback addresses for any page that asks it to. A
page of a name that its owner lets point to loopback is of no foreign origin there: its requests are
known by the `Host` that they carry.
"""

import ipaddress
from collections.abc import Collection
from collections.abc import Set as AbstractSet
from urllib.parse import urlsplit

from starlette.types import Scope

from flambeau.errors import ErrorKind, FlambeauError
from flambeau.frontend.failures import Failures
from flambeau.protocols.http import HEADER_NAMES, header
from flambeau.protocols.tokens import TOKEN_API_REFUSED
from flambeau.serving.tokens import Keyring, TokenScope, bearer_key

REFUSED = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
_FOREIGN = (
    "This request comes from a web page of another origin. Name it in cors_allowed_origin if it may"
    " manage models, or turn token authorization on."
)
_FOREIGN_HOST = (
    "The Host header names neither an IP address nor localhost: a web page may have sent this"
    " request. Name the host in allowed_hosts if it is this server's, or turn token authorization on."
)
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_AUTHORIZATION = b"authorization"


class Gate:
    """Checks the requests of a listener; `tokens` is None where token authorization is off.

    `hosts` are the names by which a management API on loopback may be called, None where it is open
    to other machines: their names for it are not known here.
    """

    def __init__(
        self,
        tokens: Keyring | None,
        cors_allowed_origin: str = "",
        *,
        failures: Failures | None = None,
        hosts: Collection[str] | None = None,
    ) -> None:
        self._tokens = tokens
        self._origin = cors_allowed_origin
        self._failures = failures or Failures(0)
        self._hosts = None if hosts is None else {host.lower() for host in hosts}

    def is_preflight(self, scope: Scope) -> bool:
        """Whether a browser asks what it may send; such a request cannot carry a key."""
        return (
            bool(self._origin)
            and scope["method"] == "OPTIONS"
            and bool(header(scope, b"origin"))
            and bool(header(scope, b"access-control-request-method"))
        )

    def check(self, scope: Scope, needed: AbstractSet[TokenScope], model: str = "") -> None:
        """Let a request with a key of one of these scopes pass, anyone where there are none.

        `model` is the one that the route is for, "" for none: a key for one model opens its routes
        only. Raises `FlambeauError`: UNAUTHENTICATED, TOO_MANY_FAILURES, WRONG_SCOPE, FOREIGN_ORIGIN
        or FOREIGN_HOST. What passes has lost its `Authorization` header where that is the server's
        own: handlers have no business with it.
        """
        if self._tokens is None:
            if TokenScope.MANAGEMENT in needed:
                self._check_host(scope)
                self._check_origin(scope)
            return
        given = [value for name, value in scope["headers"] if name == _AUTHORIZATION]
        if given:
            _take_away(scope)
        if not needed:
            return
        key = bearer_key(given[0].decode("latin-1")) if len(given) == 1 else ""
        found = self._tokens.grant_of(key)
        text = TOKEN_API_REFUSED if needed == {TokenScope.API} else REFUSED
        if found is None:
            raise self._failed(scope, text, count=bool(given))
        if found.scope not in needed or (found.model and found.model != model):
            raise FlambeauError(ErrorKind.WRONG_SCOPE, text)

    def _failed(self, scope: Scope, text: str, *, count: bool) -> FlambeauError:
        """The error of a wrong key; one that is missing is no attempt."""
        client: tuple[str, int] | None = scope.get("client")
        wait = self._failures.add(client[0] if client else "unix") if count else None
        if wait is None:
            return FlambeauError(ErrorKind.UNAUTHENTICATED, text)
        text = "Too many wrong tokens from this address. Wait, or send a right one."
        return FlambeauError(ErrorKind.TOO_MANY_FAILURES, text, retry_after=wait)

    def _check_host(self, scope: Scope) -> None:
        """No name is ours but those that were told: whoever owns another can let it point here."""
        if self._hosts is None:
            return
        given = [value for name, value in scope["headers"] if name == b"host"]
        if not all(_is_address(value.decode("latin-1"), self._hosts) for value in given):
            raise FlambeauError(ErrorKind.FOREIGN_HOST, _FOREIGN_HOST)

    def _check_origin(self, scope: Scope) -> None:
        if scope["method"] in _SAFE:
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
        netloc = urlsplit(origin).netloc
    except ValueError:
        return False
    return netloc.lower() == host.lower() and _is_address(netloc, ())


def _is_address(host: str, names: Collection[str]) -> bool:
    """Whether a `Host` header, or its like, is an IP address, `localhost`, or one of these names."""
    try:
        parts = urlsplit(f"//{host}")
        name = parts.hostname or ""
        if parts.netloc != host or parts.username is not None:
            return False
        return name == "localhost" or name in names or bool(ipaddress.ip_address(name))
    except ValueError:
        return False
