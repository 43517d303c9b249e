"""Wrong keys, counted by the address that sent them (promises.md G23).

Nobody guesses 256 bits. The count is for clients with an old key that ask again and again, which are
told to wait, and for the operator, who reads in the log that somebody tries. A right key always
passes, so that one client locks out no other behind the same proxy.
"""

import ipaddress
import logging
import time
from collections import OrderedDict
from collections.abc import Callable

from flambeau.frontend.clients import client_address

logger = logging.getLogger(__name__)

_WINDOW_SECONDS = 60.0
MAX_ADDRESSES = 4096
"""Remembered at once; beyond, the one that failed the longest ago is forgotten."""


class Failures:
    """Counts failures of each address within a minute; `limit` 0 means that none is too many."""

    def __init__(self, limit: int, now: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._now = now
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()  # since when, how many

    def add(self, address: str) -> float | None:
        """Count one; returns how many seconds the client should wait, None while it may go on."""
        if not self._limit:
            return None
        network = _network(address)
        now = self._now()
        begin, count = self._seen.pop(network, (now, 0))
        if now - begin >= _WINDOW_SECONDS:
            begin, count = now, 0
        self._seen[network] = (begin, count + 1)
        if len(self._seen) > MAX_ADDRESSES:
            self._seen.popitem(last=False)
        if count < self._limit:
            return None
        if count == self._limit:
            logger.warning(
                "More than %d wrong tokens within a minute from %s", self._limit, network
            )
        return begin + _WINDOW_SECONDS - now


def _network(address: str) -> str:
    """Of IPv6 the half that a site has: its machines choose the rest freely."""
    parsed = client_address(address)
    if parsed is None or parsed.version == 4:
        return str(parsed or address)
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))
