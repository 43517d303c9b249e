"""Access tokens: one key per scope, in a file that the owner reads (contract.md section 11.1).

The file and the life of keys are TorchServe's; the keys have 256 bits instead of 48, are compared
in constant time, and the file is private from its first byte and replaced as a whole.
"""

import contextlib
import datetime
import hmac
import json
import logging
import re
import secrets
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from flambeau.archive.staging import staged_file
from flambeau.errors import ConfigError
from flambeau.ipc.frontend_messages import Keys

logger = logging.getLogger(__name__)

_KEY_BYTES = 32
_LAST = datetime.datetime(9999, 1, 1, tzinfo=datetime.UTC).timestamp()
_BEARER = re.compile(r"Bearer[ \t]+(\S+)")


class TokenScope(StrEnum):
    """What a key opens; the values are the names in the key file."""

    INFERENCE = "inference"
    MANAGEMENT = "management"
    API = "API"


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class Keyring:
    """Keys by scope, and when they end. The `API` key, which renews the others, never expires."""

    def __init__(self, now: Callable[[], datetime.datetime] = _utc_now) -> None:
        self._now = now
        self._keys: dict[TokenScope, str] = {}
        self._ends: dict[TokenScope, datetime.datetime] = {}

    def scope_of(self, key: str) -> TokenScope | None:
        """What a key opens now; None for one that is wrong or expired.

        Every key is compared, each in constant time: how long it takes tells nothing.
        """
        given = key.encode("utf-8", "surrogateescape")
        found: TokenScope | None = None
        for scope, known in self._keys.items():
            if hmac.compare_digest(given, known.encode()):
                found = scope
        if found in self._ends and self._now() >= self._ends[found]:
            return None
        return found

    def share(self) -> Keys:
        """The keys as they are now, for a front-end process."""
        return Keys(
            {scope.value: key for scope, key in self._keys.items()},
            {scope.value: min(end.timestamp(), _LAST) for scope, end in self._ends.items()},
        )

    def take(self, shared: Keys) -> None:
        """Let these keys count from now on."""
        self._keys = {TokenScope(scope): key for scope, key in shared.keys.items()}
        self._ends = {
            TokenScope(scope): datetime.datetime.fromtimestamp(end, datetime.UTC)
            for scope, end in shared.ends.items()
        }


class Tokens(Keyring):
    """The keys of one run of the server, and their file.

    `lifetime` is in minutes and counts by the wall clock, as the file tells it.
    """

    def __init__(
        self,
        file: Path,
        lifetime: float,
        now: Callable[[], datetime.datetime] = _utc_now,
    ) -> None:
        """Make the keys and write the file. Raises `ConfigError` where it cannot be written."""
        super().__init__(now)
        self.file = file.absolute()
        self._lifetime = datetime.timedelta(seconds=int(lifetime * 60))
        self._keys = {scope: secrets.token_urlsafe(_KEY_BYTES) for scope in TokenScope}
        end = self._end()
        self._ends = {TokenScope.INFERENCE: end, TokenScope.MANAGEMENT: end}
        try:
            self._write()
        except OSError as error:
            raise ConfigError(
                f"Token authorization is on, but its key file {self.file} cannot be written:"
                f" {error.strerror or error}. Start the server in a folder that it may write to, set"
                " key_file in config.properties, or turn tokens off with --disable-token-auth."
            ) from error

    def renew(self, scope: TokenScope) -> None:
        """Replace a key in the file and at once in the server. Raises `OSError`: the old one stays.

        Waits for the disk; one call at a time, in any thread.
        """
        old_key, old_end = self._keys[scope], self._ends[scope]
        self._keys[scope], self._ends[scope] = secrets.token_urlsafe(_KEY_BYTES), self._end()
        try:
            self._write()
        except OSError:
            self._keys[scope], self._ends[scope] = old_key, old_end
            raise
        logger.info("A new %s key is in %s", scope, self.file)

    def remove_file(self) -> None:
        """Remove the file, unless another server has written its own there since."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if json.loads(self.file.read_bytes())["API"]["key"] == self._keys[TokenScope.API]:
                self.file.unlink()

    def _end(self) -> datetime.datetime:
        try:
            return self._now() + self._lifetime
        except OverflowError:
            return datetime.datetime.max.replace(tzinfo=datetime.UTC)

    def _write(self) -> None:
        document: dict[str, dict[str, str]] = {}
        for scope in (TokenScope.MANAGEMENT, TokenScope.INFERENCE, TokenScope.API):
            document[scope] = {"key": self._keys[scope]}
            if scope in self._ends:
                moment = self._ends[scope].isoformat(timespec="microseconds")
                document[scope]["expiration time"] = moment.replace("+00:00", "Z")
        with staged_file(self.file, private=True) as file:
            file.write(json.dumps(document, indent=2).encode())


def bearer_key(header: str) -> str:
    """The key of an `Authorization` header, "" if it is no `Bearer` one (its case counts)."""
    match = _BEARER.fullmatch(header)
    return match.group(1) if match else ""
