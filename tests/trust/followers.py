"""Clients of T18: steady load on servers that come and go, by what their `/readyz` says."""

import itertools
import threading
import time
from collections.abc import Callable

import httpx
import msgspec

THREADS = 4
_POLL_SECONDS = 0.05


class Asked(msgspec.Struct, frozen=True):
    """One request: when it began and ended (monotonic), and its answer's status, 0 without one."""

    began: float
    ended: float
    status: int


class Ready:
    """Which of some servers say that they are ready; polled for as long as the block runs."""

    def __init__(self) -> None:
        self._addresses: set[str] = set()
        self._ready: list[str] = []
        self._turn = itertools.count()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._poll)

    def __enter__(self) -> "Ready":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def add(self, address: str) -> None:
        """A server that has been started."""
        self._addresses = self._addresses | {address}

    def remove(self, address: str) -> None:
        """A server that is gone."""
        self._addresses = self._addresses - {address}

    def is_ready(self, address: str) -> bool:
        """Whether requests are sent to it now."""
        return address in self._ready

    def next(self) -> str:
        """A server for the next request; "" where none is ready."""
        ready = self._ready
        return ready[next(self._turn) % len(ready)] if ready else ""

    def _poll(self) -> None:
        with httpx.Client(timeout=5) as client:
            while not self._over.wait(_POLL_SECONDS):
                self._ready = [each for each in sorted(self._addresses) if _says_yes(client, each)]


def _says_yes(client: httpx.Client, address: str) -> bool:
    try:
        return client.get(f"{address}/readyz").status_code == 200
    except httpx.HTTPError:
        return False


class Load:
    """`THREADS` clients that send `rate` requests a second together, for as long as the block runs.

    `send` gets a client, sends one request and returns its answer's status; what it raises of httpx
    is a status of 0.
    """

    def __init__(self, send: Callable[[httpx.Client], int], rate: float = 50) -> None:
        self._send = send
        self._pause = THREADS / rate
        self._over = threading.Event()
        self._asked: list[list[Asked]] = [[] for _ in range(THREADS)]
        self._threads = [threading.Thread(target=self._run, args=(own,)) for own in self._asked]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def asked(self) -> list[Asked]:
        """Every request that has ended."""
        return list(itertools.chain(*self._asked))

    @property
    def failed(self) -> list[Asked]:
        """Those without a good answer."""
        return [each for each in self.asked if each.status != 200]

    def _run(self, own: list[Asked]) -> None:
        with httpx.Client(timeout=30) as client:
            while not self._over.wait(self._pause):
                began = time.monotonic()
                try:
                    status = self._send(client)
                except httpx.HTTPError:
                    status = 0
                own.append(Asked(began, time.monotonic(), status))
