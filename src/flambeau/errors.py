"""Every error that can reach a client or an operator, by meaning and not by status code.

    FlambeauError                 carries a kind, a message for the client, and perhaps a wait
    ├── ConfigError               a flag, a key or a file of the configuration is wrong
    ├── ArchiveError              an archive is missing, broken, hostile or not packable
    │   └── MissingFileError      a file that was named for packing is not there
    ├── HubError                  a model cannot be had from the hub
    ├── LoadError                 a worker could not load its model
    ├── StorageError              the server's disk is full, read-only or broken, or descriptors ran out
    └── PredictionError           one item failed; may carry the status that a handler chose

A message names the thing, the reason and the way out. Statuses belong to the protocols:
`flambeau.protocols.status` holds the only table from `ErrorKind` to HTTP.
"""

import errno
from enum import StrEnum

from typing_extensions import override


class ErrorKind(StrEnum):
    """What went wrong, in terms that every protocol can translate."""

    INVALID_INPUT = "invalid_input"
    INVALID_ARCHIVE = "invalid_archive"
    DOWNLOAD_FAILED = "download_failed"
    UNTRUSTED = "untrusted"
    INVALID_VERSION = "invalid_version"
    INVALID_PATH = "invalid_path"
    INVALID_KEY_TYPE = "invalid_key_type"
    UNAUTHENTICATED = "unauthenticated"
    WRONG_SCOPE = "wrong_scope"
    TOO_MANY_FAILURES = "too_many_failures"
    FOREIGN_ORIGIN = "foreign_origin"
    FOREIGN_HOST = "foreign_host"
    MODEL_SETUP = "model_setup"
    MODEL_NOT_FOUND = "model_not_found"
    VERSION_NOT_FOUND = "version_not_found"
    ROUTE_NOT_FOUND = "route_not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    CONFLICT = "conflict"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    REQUEST_TIMEOUT = "request_timeout"
    NO_WORKER = "no_worker"
    OVERLOADED = "overloaded"
    OWN_LIMIT = "own_limit"
    WORKER_DIED = "worker_died"
    SEQUENCE_LOST = "sequence_lost"
    POISONOUS_INPUT = "poisonous_input"
    RESPONSE_TOO_LARGE = "response_too_large"
    TIMEOUT = "timeout"
    HANDLER_FAILED = "handler_failed"
    OUT_OF_MEMORY = "out_of_memory"
    STORAGE = "storage"
    LOAD_FAILED = "load_failed"
    CANCELLED = "cancelled"
    CONFIG = "config"
    INTERNAL = "internal"


WORKER_DIED = "Worker died."
"""All that TorchServe tells a client of a worker that crashed or was too slow; the log has more."""


class FlambeauError(Exception):
    """Base of all errors that Flambeau raises on purpose.

    `retry_after` is a wait in seconds that protocols pass on where they can.
    """

    def __init__(self, kind: ErrorKind, message: str, *, retry_after: float | None = None) -> None:
        # It may quote what a client sent, and half a surrogate pair cannot be told anybody.
        message = message.encode("utf-8", "backslashreplace").decode("utf-8")
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.retry_after = retry_after

    @override
    def __str__(self) -> str:
        return self.message


class ConfigError(FlambeauError):
    """A flag, a configuration key or a configuration file is wrong."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorKind.CONFIG, message)


class ArchiveError(FlambeauError):
    """An archive is missing, broken, hostile, or cannot be packed."""

    def __init__(self, message: str, kind: ErrorKind = ErrorKind.INVALID_ARCHIVE) -> None:
        super().__init__(kind, message)


class MissingFileError(ArchiveError):
    """A file that was named for packing does not exist."""


class HubError(FlambeauError):
    """A model cannot be had from the Hugging Face hub or its cache."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorKind.MODEL_NOT_FOUND, message)


class LoadError(FlambeauError):
    """A worker could not load its model; the message is the worker's reason."""

    def __init__(self, message: str, kind: ErrorKind = ErrorKind.LOAD_FAILED) -> None:
        super().__init__(kind, message)


class PredictionError(FlambeauError):
    """One item of a batch failed; its neighbours are not touched.

    `status` is set where a user's handler chose an HTTP status itself.
    """

    def __init__(
        self,
        message: str,
        kind: ErrorKind = ErrorKind.HANDLER_FAILED,
        *,
        status: int | None = None,
    ) -> None:
        super().__init__(kind, message)
        self.status = status


class StorageError(FlambeauError):
    """The server's own disk or descriptors fail a change; what is served goes on being served."""

    def __init__(self, what: str, error: OSError) -> None:
        """`what` cannot be done, as in "m.mar cannot be unpacked into /cache"."""
        reason = error.strerror or str(error)
        super().__init__(
            ErrorKind.STORAGE, f"{what}: {reason}. {_WAY_OUT.get(error.errno or 0, _ANY)}"
        )


STORAGE_ERRNOS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE}
)
"""What the machine lacks, whatever was asked for: full, read-only or broken disks, descriptors."""

_ANY = "Models that are served are not touched; try again when the cause is mended."
_FULL = "Make room and try again; no restart is needed. Models that are served are not touched."
_NO_FILES = "Try again with fewer open connections, or raise the limit (ulimit -n, LimitNOFILE)."
_WAY_OUT = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EMFILE: _NO_FILES,
    errno.ENFILE: _NO_FILES,
}


def first_line(error: BaseException) -> str:
    """What an error of a library says, in one line of a message; its type's name if nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def invalid_input(problem: str) -> PredictionError:
    """The error of one wrong input."""
    return PredictionError(f"Invalid input: {problem}.", ErrorKind.INVALID_INPUT)
