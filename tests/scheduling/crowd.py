"""Many requests at once to one model."""

import asyncio

import httpx

from flambeau.testing.echo import waiting
from flambeau.testing.server import RunningServer
from flambeau.testing.waiting import wait_until


class Crowd:
    """Requests in flight, each in a task of its own."""

    def __init__(self, server: RunningServer, model: str, client: httpx.AsyncClient) -> None:
        self._server = server
        self._url = f"{server.inference}/predictions/{model}"
        self._model = model
        self._client = client

    def send(self, content: str = "", **headers: str) -> "asyncio.Task[httpx.Response]":
        """POST a body; hyphens of header names are written as underscores, unless they begin `ts`."""
        named = {
            name if name.startswith("ts_") else name.replace("_", "-"): value
            for name, value in headers.items()
        }
        return asyncio.ensure_future(self._client.post(self._url, content=content, headers=named))

    async def queued(self, count: int) -> None:
        """Wait until `count` requests wait in the model's queue."""
        await asyncio.to_thread(wait_until, lambda: waiting(self._server, self._model) == count)


def client() -> httpx.AsyncClient:
    """A client that opens as many connections as there are requests."""
    return httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=100))
