"""Load for the suites, from a process of its own: closed and open loops that tell refusals apart.

`flambeau.bench` counts what succeeds; here a refusal is measured just as an answer is. A `Crowd` is
described in JSON on standard input of `python -m tests.trust.crowds FILE`, which writes what it saw.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import uvloop
from typing_extensions import override

from flambeau.bench.connection import Connection, Target, target_of
from flambeau.bench.pacing import gaps

_ROOT = Path(__file__).parents[2]
_MOST_CONNECTIONS = 400


class Stream(msgspec.Struct, frozen=True):
    """Requests for one address: `clients` in a closed loop, or `rate` a second in an open one."""

    url: str
    clients: int = 0
    rate: float = 0
    headers: dict[str, str] = {}


class Crowd(msgspec.Struct, frozen=True):
    """All streams at once, for some seconds; the process is pinned to a core where that is >= 0."""

    streams: list[Stream]
    seconds: float
    seed: int
    core: int = -1


class Seen(msgspec.Struct):
    """What one stream saw: answers by status, latencies in milliseconds.

    "lost" had no answer, "unsent" found no free connection.

    Latencies count from when a request was sent, `late` is how long after it was due that was.
    `unexplained` are refusals without `Retry-After`.
    """

    answers: dict[str, int] = {}
    good: list[float] = msgspec.field(default_factory=list)
    refused: list[float] = msgspec.field(default_factory=list)
    late: list[float] = msgspec.field(default_factory=list)
    unexplained: int = 0
    seconds: float = 0


def offer(crowd: Crowd) -> list[Seen]:
    """Send it all from a process of its own, and return what each stream saw."""
    with tempfile.TemporaryDirectory() as folder:
        seen = Path(folder) / "seen.json"
        subprocess.run(
            [sys.executable, "-m", "tests.trust.crowds", str(seen)],
            input=msgspec.json.encode(crowd), check=True, timeout=crowd.seconds + 60,
            cwd=_ROOT, env={**os.environ, "PYTHONPATH": str(_ROOT)},
        )  # fmt: skip
        return msgspec.json.decode(seen.read_bytes(), type=list[Seen])


def quantile(values: list[float], share: float) -> float:
    """By nearest rank; 0 of nothing."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


class _Noting(Connection):
    """A connection that knows whether its answer had a `Retry-After`."""

    said_when = False

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        self.said_when = self.said_when or name.lower() == b"retry-after"
        super().on_header(name, value)


class _Streaming:
    """One stream while it runs."""

    def __init__(self, number: int, stream: Stream, crowd: Crowd) -> None:
        self.seen = Seen(seconds=crowd.seconds)
        self._stream = stream
        self._crowd = crowd
        self._target: Target = target_of(stream.url, stream.headers)
        self._request = self._target.request(b"1")
        self._number = number
        self._idle: list[_Noting] = []
        self._open = 0
        self._end = 0.0

    async def run(self) -> None:
        self._end = time.monotonic() + self._crowd.seconds
        if self._stream.clients:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._stream.clients):
                    group.create_task(self._closed())
        else:
            await self._open_loop()
        for connection in self._idle:
            connection.close()

    async def _closed(self) -> None:
        connection = _Noting()
        while time.monotonic() < self._end:
            await self._one(connection, time.monotonic())
        connection.close()

    async def _open_loop(self) -> None:
        due = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for gap in gaps(self._stream.rate, "poisson", self._crowd.seed + self._number):
                due += gap
                if due >= self._end:
                    return
                if (early := due - time.monotonic()) > 0:
                    await asyncio.sleep(early)
                group.create_task(self._taken(due))

    async def _taken(self, due: float) -> None:
        if not self._idle:
            if self._open >= _MOST_CONNECTIONS:
                self._note("unsent")
                return
            self._open += 1
            self._idle.append(_Noting())
        connection = self._idle.pop()
        await self._one(connection, due)
        self._idle.append(connection)

    async def _one(self, connection: _Noting, due: float) -> None:
        connection.said_when = False
        sent = time.monotonic()
        self.seen.late.append((sent - due) * 1000)
        try:
            answer = await connection.exchange(self._target, self._request, 30)
        except OSError:
            self._note("lost")
            return
        took = (time.monotonic() - sent) * 1000
        self._note(str(answer.status))
        if answer.status == 200:
            self.seen.good.append(took)
            return
        self.seen.refused.append(took)
        self.seen.unexplained += not connection.said_when

    def _note(self, outcome: str) -> None:
        self.seen.answers[outcome] = self.seen.answers.get(outcome, 0) + 1


async def _all(crowd: Crowd) -> list[Seen]:
    streams = [_Streaming(number, each, crowd) for number, each in enumerate(crowd.streams)]
    async with asyncio.TaskGroup() as group:
        for stream in streams:
            group.create_task(stream.run())
    return [stream.seen for stream in streams]


def _main() -> None:
    crowd = msgspec.json.decode(sys.stdin.buffer.read(), type=Crowd)
    if crowd.core >= 0:
        os.sched_setaffinity(0, {crowd.core})
    Path(sys.argv[1]).write_bytes(msgspec.json.encode(uvloop.run(_all(crowd))))


if __name__ == "__main__":
    _main()
