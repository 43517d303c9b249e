"""Every record between the server process and its further front-end processes.

core → front end   Setup, Part, Refused, Told, NewKeys, NewCertificates, Leave, Drain
front end → core   Serving, Submit, Withdraw, Ask, KeysTaken, Responses, LogRecord

`Setup` comes first. The core answers `Submit` with parts, the last one marked, or one `Refused`, and
`Ask` with one `Told` or `Refused`; numbers are the front end's. `Withdraw` has no answer. After
`Leave` connections end with their next answer; after `Drain` a front end answers what it has accepted, sends what it still has to tell, and ends.
"""

from typing import Literal

import msgspec

from flambeau.errors import ErrorKind
from flambeau.types import Chunk, InferenceRequest


class Grant(msgspec.Struct, frozen=True, array_like=True):
    """What a key opens, and until when; the key itself is known by its SHA-256 only.

    `scope` is a `TokenScope`. `end` is in seconds since 1970, None for a key that does not expire.
    A key with a `model` opens what is that model's, and nothing else.
    """

    digest: bytes
    scope: str
    end: float | None = None
    model: str = ""


class Keys(msgspec.Struct, frozen=True, array_like=True):
    """All keys that count."""

    grants: list[Grant]


class Certificates(msgspec.Struct, frozen=True, array_like=True):
    """What a TLS listener shows, and whom it lets shake hands.

    `identity` is a private key, not encrypted, and its certificates in PEM; `source` is where they
    are from, for messages. With `client_ca` (PEM) clients need a certificate that it signed.
    """

    identity: bytes
    source: str
    client_ca: str | None = None


class Setup(msgspec.Struct, frozen=True, tag="setup", array_like=True):
    """How to serve. `settings` are fields of `ServerConfig`.

    Without `certificates` it is plain HTTP; without `keys` nobody is asked for one. `grace` is how
    many seconds a stop waits for answers.
    """

    settings: dict[str, str | int | bool]
    metrics_url: str
    certificates: Certificates | None
    keys: Keys | None
    grace: float
    log_level: int
    access_log: bool


class Part(msgspec.Struct, frozen=True, tag="part", array_like=True):
    """A part of an answer."""

    number: int
    chunk: Chunk


class Refused(msgspec.Struct, frozen=True, tag="refused", array_like=True):
    """An error instead of an answer; `status` is one that a handler chose."""

    number: int
    kind: ErrorKind
    message: str
    status: int | None = None
    retry_after: float | None = None


class Told(msgspec.Struct, frozen=True, tag="told", array_like=True):
    """The answer to a question."""

    number: int
    yes: bool
    names: list[str] = []


class NewKeys(msgspec.Struct, frozen=True, tag="new_keys", array_like=True):
    """These keys count from now on; `KeysTaken` says that they do."""

    keys: Keys


class NewCertificates(msgspec.Struct, frozen=True, tag="new_certificates", array_like=True):
    """Connections from now on get these; there is no answer."""

    certificates: Certificates


class Leave(msgspec.Struct, frozen=True, tag="leave", array_like=True):
    """A stop has begun: clients are to go elsewhere. Connections are still accepted."""


class Drain(msgspec.Struct, frozen=True, tag="drain", array_like=True):
    """Accept no more connections, answer what was accepted, and end."""


class Serving(msgspec.Struct, frozen=True, tag="serving", array_like=True):
    """Connections are accepted from now on."""


class Submit(msgspec.Struct, frozen=True, tag="submit", array_like=True):
    """A request for a model; `version` "" means its default."""

    number: int
    name: str
    version: str
    request: InferenceRequest


class Withdraw(msgspec.Struct, frozen=True, tag="withdraw", array_like=True):
    """Nobody waits for this answer any more."""

    number: int


class Ask(msgspec.Struct, frozen=True, tag="ask", array_like=True):
    """A question to the data plane; `name` and `version` are a model's, where one is meant.

    Names of probes ask what each of them lacks: `names`.
    """

    number: int
    what: Literal["model", "startup_names", "ready", "healthy", "livez", "startupz", "readyz"]
    name: str = ""
    version: str = ""


class KeysTaken(msgspec.Struct, frozen=True, tag="keys_taken", array_like=True):
    """The last `NewKeys` counts here."""


class Responses(msgspec.Struct, frozen=True, tag="responses", array_like=True):
    """Statuses of responses since the last message, and their access log: times and lines."""

    statuses: list[int]
    lines: list[tuple[str, str]]


class LogRecord(msgspec.Struct, frozen=True, tag="log", array_like=True):
    """What a front end logs. `level` is `logging`'s number."""

    level: int
    logger: str
    message: str


ToFrontEnd = Setup | Part | Refused | Told | NewKeys | NewCertificates | Leave | Drain
FromFrontEnd = Serving | Submit | Withdraw | Ask | KeysTaken | Responses | LogRecord
