"""Requests that go on while workers come and go."""

import threading

import httpx

from flambeau.testing.server import RunningServer
from flambeau.testing.waiting import wait_until

HANGS = "import threading\nthreading.Event().wait()\n"
"""A model whose load never ends."""


def healthy(server: RunningServer) -> bool:
    return httpx.get(f"{server.inference}/ping").status_code == 200


class Load:
    """Requests from several threads until told to stop; every answer's status is kept."""

    def __init__(self, server: RunningServer, threads: int = 4) -> None:
        self.statuses: list[int] = []
        self._server = server
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(threads)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        wait_until(lambda: len(self.statuses) >= 10)
        return self

    def __exit__(self, *_: object) -> None:
        seen = len(self.statuses)
        try:
            wait_until(lambda: len(self.statuses) >= seen + 10)
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def _send(self) -> None:
        with httpx.Client(timeout=60) as client:
            while not self._stop.is_set():
                answer = client.post(f"{self._server.inference}/predictions/echo")
                self.statuses.append(answer.status_code)
