"""Inputs that end workers: counted by a keyed digest, and refused for a minute once that is sure.

Rules: a death of a worker counts once for each input that was not answered yet. An input with two
deaths, at the last of which it was alone on its worker, is refused from then on (promises.md G6):
whoever sends it again takes no third worker down. An answer clears an input, so that what merely
shared a batch with a poisonous one, or was killed from outside, is not refused later. Counts are
forgotten after a minute. Of an input nothing is kept but its digest, under a key of this process.
"""

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping

from flambeau.types import LANE_HEADER, InferenceRequest

REFUSED_SECONDS = 60.0
"""How long an input is refused, and how long a death is remembered."""

MAX_INPUTS = 1_000
"""Inputs that are remembered at once; those whose last death is the longest ago go first."""

DEATHS = 2
"""So many ends of workers make an input a refused one."""

_OF_THE_CONNECTION = frozenset(
    {
        *(
            "host",
            "connection",
            "content-length",
            "transfer-encoding",
            "te",
            "expect",
            "user-agent",
        ),
        *("accept-encoding", "cache-control", "pragma", "date", "via", "forwarded", "x-real-ip"),
        *("referer", "origin", "dnt", "priority", "authorization", "idempotency-key"),
        *("traceparent", "tracestate", "baggage", "b3", "x-request-id", "x-correlation-id"),
        *("request-id", "x-amzn-trace-id", "x-cloud-trace-context", LANE_HEADER),
    }
)
_OF_THE_CONNECTION_PREFIXES = ("x-forwarded-", "x-b3-", "x-envoy-", "cf-", "sec-")
"""Headers that say how a request came, or which one it is, and not what is asked."""


class _Suspect:
    """An input that workers have died under."""

    __slots__ = ("deaths", "last_death", "refused", "since")

    def __init__(self) -> None:
        self.deaths = 0
        self.last_death: Hashable = None
        self.since = 0.0
        self.refused = False


class Quarantine:
    """The suspects of one model version. False while there are none: then nothing is hashed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(16)
        self._suspects: OrderedDict[bytes, _Suspect] = OrderedDict()

    def __bool__(self) -> bool:
        """Whether there is any suspect."""
        if not self._suspects:
            return False
        now = self._clock()
        while self._suspects:
            digest, oldest = next(iter(self._suspects.items()))
            if now - oldest.since < REFUSED_SECONDS:
                return True
            del self._suspects[digest]
        return False

    def blame(self, request: InferenceRequest, death: Hashable, *, alone: bool) -> bool:
        """A worker died under a request. True: from now on its input is refused.

        `death` tells one worker's end from another's: requests with one input that were lost by the
        same end count once.
        """
        digest = self._digest(request)
        suspect = self._suspects.setdefault(digest, _Suspect())
        self._suspects.move_to_end(digest)
        suspect.since = self._clock()
        suspect.deaths += suspect.last_death != death
        suspect.last_death = death
        newly = alone and suspect.deaths >= DEATHS and not suspect.refused
        suspect.refused = suspect.refused or newly
        while len(self._suspects) > MAX_INPUTS:
            self._suspects.popitem(last=False)
        return newly

    def clear(self, request: InferenceRequest) -> None:
        """A request was answered: its input is no suspect."""
        if self:
            self._suspects.pop(self._digest(request), None)

    def seconds_left(self, request: InferenceRequest) -> float:
        """How long a request's input is still refused; 0: it is not."""
        if not self:
            return 0.0
        suspect = self._suspects.get(self._digest(request))
        if suspect is None or not suspect.refused:
            return 0.0
        return max(suspect.since + REFUSED_SECONDS - self._clock(), 0.0)

    def _digest(self, request: InferenceRequest) -> bytes:
        """Equal for requests for which a handler gets the same."""
        digest = hashlib.blake2b(key=self._key, digest_size=16)
        parts = [
            part.encode("utf-8", "surrogateescape")
            for pair in sorted(_telling(request.headers))
            for part in pair
        ]
        for field in request.fields:
            parts += [field.name.encode(), field.content_type.encode(), field.value]
        for part in parts:
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
        return digest.digest()


def _telling(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """The headers that a handler may answer by, their names in lower case.

    Of the content type without its parameters: a form's boundary is another each time.
    """
    named = [(name.lower(), value) for name, value in headers.items()]
    return [
        (name, value.partition(";")[0] if name == "content-type" else value)
        for name, value in named
        if name not in _OF_THE_CONNECTION and not name.startswith(_OF_THE_CONNECTION_PREFIXES)
    ]
