"""Access tokens: one key per scope, in a file that the owner reads (contract.md section 11.1).

The file and the life of keys are TorchServe's; the keys have 256 bits instead of 48, and the file
is private from its first byte and replaced as a whole. Memory holds SHA-256 digests only, compared in
constant time. Beside these keys count the named ones of `flambeau.serving.token_file`.
"""

import contextlib
import datetime
import hashlib
import hmac
import json
import logging
import re
import resource
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from pathlib import Path

import msgspec

from flambeau.archive.staging import staged_file
from flambeau.errors import ConfigError
from flambeau.ipc.frontend_messages import Grant, Keys

logger = logging.getLogger(__name__)

_KEY_BYTES = 32
_LAST = datetime.datetime(9999, 1, 1, tzinfo=datetime.UTC).timestamp()
_BEARER = re.compile(r"Bearer[ \t]+(\S+)")
_LIVE = 8
"""Keys of a scope that can count at once, by overlaps; named ones are not among them."""


class TokenScope(StrEnum):
    """What a key opens; the values are the names in the key file, which has no metrics key."""

    INFERENCE = "inference"
    MANAGEMENT = "management"
    API = "API"
    METRICS = "metrics"


_IN_FILE = (TokenScope.MANAGEMENT, TokenScope.INFERENCE, TokenScope.API)


def new_key() -> str:
    """A key of 256 random bits."""
    return secrets.token_urlsafe(_KEY_BYTES)


def digest_of(key: str) -> bytes:
    """What is kept of a key. No salt and no rounds: 256 random bits cannot be guessed from it."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class Keyring:
    """All keys that count, and when they end."""

    def __init__(self, now: Callable[[], datetime.datetime] = _utc_now) -> None:
        self._now = now
        self._grants: tuple[Grant, ...] = ()

    def grant_of(self, key: str) -> Grant | None:
        """What a key opens now; None for one that is wrong or expired.

        Digests are compared, all of them, each in constant time: how long it takes tells nothing.
        """
        digest = digest_of(key)
        found: Grant | None = None
        for grant in self._grants:
            if hmac.compare_digest(digest, grant.digest):
                found = grant
        if found is None or (found.end is not None and self._now().timestamp() >= found.end):
            return None
        return found

    def share(self) -> Keys:
        """The keys as they are now, for a front-end process."""
        return Keys(list(self._grants))

    def take(self, shared: Keys) -> None:
        """Let these keys count from now on."""
        self._grants = tuple(shared.grants)


class Tokens(Keyring):
    """The keys of one run of the server and their file, and the named keys beside them.

    `lifetime` is in minutes and `overlap`, how long a replaced key still counts, in seconds. Both
    go by the wall clock, as the file tells it. The `API` key, which renews the others, never expires.
    """

    def __init__(
        self,
        file: Path,
        lifetime: float,
        now: Callable[[], datetime.datetime] = _utc_now,
        *,
        overlap: float = 0,
    ) -> None:
        """Make the keys and write the file. Raises `ConfigError` where it cannot be written."""
        super().__init__(now)
        self.file = file.absolute()
        self._lifetime = int(lifetime * 60)
        self._overlap = overlap
        self._lock = threading.Lock()
        self._named: tuple[Grant, ...] = ()
        keys = {scope: new_key() for scope in _IN_FILE}
        self._own: dict[TokenScope, tuple[Grant, ...]] = {
            scope: (self._grant(scope, key),) for scope, key in keys.items()
        }
        self._publish()
        try:
            self._write(keys, self._own)
        except OSError as error:
            raise ConfigError(
                f"Token authorization is on, but its key file {self.file} cannot be written:"
                f" {error.strerror or error}. Start the server in a folder that it may write to, set"
                " key_file in config.properties, or turn tokens off with --disable-token-auth."
            ) from error

    def renew(self, scope: TokenScope) -> None:
        """Replace a key in the file and in the server. Raises `OSError`: the old one stays.

        The server does not know the other keys: they are read from the file, and where that has
        gone or is another server's, new ones are made, beside those that clients have.

        Waits for the disk; one call at a time, in any thread.
        """
        kept = {each: key for each, key in self._read().items() if each is not scope}
        made = {each: new_key() for each in _IN_FILE if each not in kept}
        own = dict(self._own)
        until = self._now().timestamp() + self._overlap
        for each, key in made.items():
            older = own[each]
            if each is scope:
                older = tuple(_ending(grant, until) for grant in older) if self._overlap else ()
            own[each] = (*older, self._grant(each, key))[-_LIVE:]
        self._write(kept | made, own)
        self._own = own
        self._publish()
        logger.info("A new %s key is in %s", scope, self.file)

    def use_named(self, grants: Iterable[Grant]) -> None:
        """Let these keys count besides the server's own, in place of the last ones."""
        self._named = tuple(grants)
        self._publish()

    def remove_file(self) -> None:
        """Remove the file, unless another server has written its own there since."""
        if TokenScope.API in self._read():
            with contextlib.suppress(OSError):
                self.file.unlink()

    def _publish(self) -> None:
        with self._lock:  # a renewal and a new file of named keys may come at once
            self._grants = (*self._named, *(each for own in self._own.values() for each in own))

    def _grant(self, scope: TokenScope, key: str) -> Grant:
        end = min(self._now().timestamp() + self._lifetime, _LAST)
        return Grant(digest_of(key), scope.value, None if scope is TokenScope.API else end)

    def _read(self) -> dict[TokenScope, str]:
        """Keys of the file that are this server's newest."""
        found: dict[TokenScope, str] = {}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            document = json.loads(self.file.read_bytes())
            for scope in _IN_FILE:
                key = str(document[scope]["key"])
                if hmac.compare_digest(digest_of(key), self._own[scope][-1].digest):
                    found[scope] = key
        return found

    def _write(
        self, keys: Mapping[TokenScope, str], own: Mapping[TokenScope, tuple[Grant, ...]]
    ) -> None:
        document: dict[str, dict[str, str]] = {}
        for scope in _IN_FILE:
            document[scope] = {"key": keys[scope]}
            end = own[scope][-1].end
            if end is not None:
                moment = datetime.datetime.fromtimestamp(end, datetime.UTC)
                text = moment.isoformat(timespec="microseconds")
                document[scope]["expiration time"] = text.replace("+00:00", "Z")
        with staged_file(self.file, private=True) as file:
            file.write(json.dumps(document, indent=2).encode())


def _ending(grant: Grant, end: float) -> Grant:
    """The same, at this moment at the latest."""
    return msgspec.structs.replace(grant, end=end if grant.end is None else min(grant.end, end))


def bearer_key(header: str) -> str:
    """The key of an `Authorization` header, "" if it is no `Bearer` one (its case counts)."""
    match = _BEARER.fullmatch(header)
    return match.group(1) if match else ""


def keep_out_of_core_files() -> None:
    """Let this process, and those that it starts, leave no memory in a core file.

    Requests with keys pass through it. The limit alone does not stop a kernel that pipes core files
    to a program; the filter lets them have no memory then.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with contextlib.suppress(OSError):
        Path("/proc/self/coredump_filter").write_text("0")
