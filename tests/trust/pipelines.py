"""A fast client: requests sent ahead over connections that stay open, statuses counted, bodies skipped."""

import asyncio
import re
from collections import Counter
from typing import cast

import uvloop
from typing_extensions import override

_STATUS = re.compile(rb"HTTP/1\.1 (\d\d\d) ")


def send_many(
    port: int, request: bytes, count: int, *, connections: int = 8, ahead: int = 16
) -> Counter[int]:
    """Send `count` equal requests to the loopback's port, `ahead` of the answers; counts statuses.

    Answers that never came are missing. No answer's body may look like a status line.
    """
    shares = [count // connections + (index < count % connections) for index in range(connections)]
    statuses: Counter[int] = Counter()

    async def everything() -> None:
        async with asyncio.TaskGroup() as group:
            for share in shares:
                if share:
                    group.create_task(_send(port, request, share, ahead, statuses))

    uvloop.run(everything())
    return statuses


async def _send(port: int, request: bytes, count: int, ahead: int, statuses: Counter[int]) -> None:
    loop = asyncio.get_running_loop()
    pipeline = _Pipeline(request, count, ahead, statuses)
    transport, _ = await loop.create_connection(lambda: pipeline, "127.0.0.1", port)
    try:
        await pipeline.done.wait()
    finally:
        transport.close()


class _Pipeline(asyncio.Protocol):
    def __init__(self, request: bytes, count: int, ahead: int, statuses: Counter[int]) -> None:
        self.done = asyncio.Event()
        self._request = request
        self._unsent = self._unanswered = count
        self._ahead = ahead
        self._statuses = statuses
        self._tail = b""

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send(self._ahead)

    @override
    def data_received(self, data: bytes) -> None:
        seen = self._tail + data
        found = _STATUS.findall(seen)
        self._tail = seen[-12:]  # a status line may come in two pieces; a whole one has 13 bytes
        self._statuses.update(map(int, found))
        self._unanswered -= len(found)
        if self._unanswered <= 0:
            self.done.set()
        self._send(len(found))

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.done.set()

    def _send(self, count: int) -> None:
        count = min(count, self._unsent)
        self._unsent -= count
        if count:
            self._transport.write(self._request * count)
