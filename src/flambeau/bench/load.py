"""Sends requests in a closed or an open loop, and measures.

Closed: each of N clients sends its next request when its last is answered, so a slow server is
asked less often, and a pause hides all the requests that would have come meanwhile. Open: requests
are due at times drawn beforehand; their latency counts from then, whether or not a connection was
free (no coordinated omission), and none is left out.
"""

import asyncio
import math
import signal
import sys
import time
from array import array
from collections import Counter, deque
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager

import httptools
import msgspec
import uvloop

from flambeau.bench.connection import Answer, Connection, Target, describe
from flambeau.bench.outcome import Outcome, Whole, curve, percentiles
from flambeau.bench.pacing import Arrivals, Pacer, gaps
from flambeau.bench.processes import cpu_seconds

_ERROR_STATUS = 400
_SWITCH_SECONDS = 0.0005
_PAUSE = 0.05
"""Seconds that a client of a closed loop rests after a failure, so that a dead server costs no CPU."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What to send: `clients` for a closed loop or `rate` a second for an open one.

    Measures for `duration` seconds, or until `requests` are answered, after `warm_up` seconds that
    do not count. `timeout` counts from the moment a request is due. `server_pid` is the process
    whose CPU time, with all below it, is measured too.
    """

    clients: int = 8
    rate: float | None = None
    arrivals: Arrivals = "poisson"
    duration: float = 10.0
    requests: int | None = None
    warm_up: float = 1.0
    timeout: float = 30.0
    max_connections: int = 1000
    seed: int = 0
    server_pid: int | None = None


class LoadRun:
    """One run of a load, which sends `requests` (see `Target.request`) in turn to the target's host.

    `stop` ends it early; the outcome is then that of the time so far.
    """

    def __init__(self, load: Load, target: Target, requests: list[bytes]) -> None:
        self._load = load
        self._target = target
        self._requests = requests
        self._next = 0
        self._loop = asyncio.get_running_loop()
        self._start = self._end = 0.0
        self._over = asyncio.Event()
        self._stopped = False
        self._clients: set[asyncio.Task[None]] = set()
        self._idle: list[asyncio.Future[float | None]] = []
        self._due: deque[float] = deque()
        self._admitted = self._counted = 0
        self._latencies = array("d")
        self._late = array("d")
        self._errors: Counter[str] = Counter()
        self._ended = self._succeeded_within = 0
        self._sent = self._received = 0

    def stop(self) -> None:
        """End now; requests that are under way are given up."""
        self._stopped = True
        self._finish()

    async def run(self) -> Outcome:
        """Send it all."""
        server_before, client_before = await self._server_cpu(), time.process_time()
        begin = time.perf_counter()
        self._start = begin + self._load.warm_up
        counting = self._load.requests is not None
        self._end = math.inf if counting else self._start + self._load.duration
        async with asyncio.TaskGroup() as group:
            ending = group.create_task(self._end_in_time())
            if self._load.rate is None:
                for _ in range(self._load.clients):
                    self._add(group, self._closed_client())
                await self._over.wait()
            else:
                async with self._pacing(group, self._load.rate):
                    await self._over.wait()
            ending.cancel()
            if self._stopped:
                for client in self._clients:
                    client.cancel()
        whole = time.perf_counter() - begin
        client_cpu = time.process_time() - client_before
        server_after = await self._server_cpu()
        used = (
            None if server_before is None or server_after is None else server_after - server_before
        )
        return self._outcome(Whole(whole, self._ended, client_cpu, used))

    def _add(self, group: asyncio.TaskGroup, client: Coroutine[object, None, None]) -> None:
        task = group.create_task(client)
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    async def _end_in_time(self) -> None:
        if self._end < math.inf:
            await asyncio.sleep(self._end - time.perf_counter())
            self._finish()

    async def _server_cpu(self) -> float | None:
        pid = self._load.server_pid
        return None if pid is None else await asyncio.to_thread(cpu_seconds, pid)

    def _finish(self) -> None:
        if not self._over.is_set():
            self._end = min(self._end, time.perf_counter())
            self._over.set()

    def _admit(self, due: float) -> bool:
        """Whether a request that is due now still belongs to this run."""
        if self._over.is_set():
            return False
        if due >= self._start and self._load.requests is not None:
            self._admitted += 1
            return self._admitted <= self._load.requests
        return True

    async def _closed_client(self) -> None:
        connection = Connection()
        while self._admit(due := time.perf_counter()):
            failed = await self._one(connection, due)
            if failed and not connection.open:
                await asyncio.sleep(_PAUSE)
        connection.close()

    @asynccontextmanager
    async def _pacing(self, group: asyncio.TaskGroup, rate: float) -> AsyncIterator[None]:
        """Requests become due until the block ends; then those that are due are waited for."""

        def arrive(due: float) -> None:
            self._loop.call_soon_threadsafe(self._take, group, due)

        pacer = Pacer(gaps(rate, self._load.arrivals, self._load.seed), arrive)
        pacer.start()
        try:
            yield
        finally:
            pacer.stop()
            for waiting in self._idle:
                waiting.set_result(None)
            self._idle.clear()

    def _take(self, group: asyncio.TaskGroup, due: float) -> None:
        """Hand a due request to a client that waits, to a new one, or let it wait for one."""
        if not self._admit(due):
            return
        if self._idle:
            self._idle.pop().set_result(due)
        elif len(self._clients) < self._load.max_connections:
            self._add(group, self._open_client(due))
        else:
            self._due.append(due)

    async def _open_client(self, due: float | None) -> None:
        connection = Connection()
        while due is not None:
            await self._one(connection, due)
            due = self._due.popleft() if self._due else await self._wait_for_work()
        connection.close()

    async def _wait_for_work(self) -> float | None:
        if self._over.is_set():
            return None
        waiting: asyncio.Future[float | None] = self._loop.create_future()
        self._idle.append(waiting)
        return await waiting

    async def _one(self, connection: Connection, due: float) -> bool:
        """Send the next request and count what comes of it. Returns whether there was no answer."""
        request = self._requests[self._next % len(self._requests)]
        self._next += 1
        sent = time.perf_counter()
        failure = ""
        size = 0
        left = self._load.timeout - (sent - due)
        try:
            if left <= 0:
                raise TimeoutError
            answer = await connection.exchange(self._target, request, left)
        except (OSError, httptools.HttpParserError) as error:
            failure = describe(error)
        else:
            size = answer.size
            failure = str(answer.status) if answer.status >= _ERROR_STATUS else ""
        self._count(due, sent, failure, len(request), size)
        return bool(failure)

    def _count(self, due: float, sent: float, failure: str, size: int, received: int) -> None:
        now = time.perf_counter()
        self._ended += 1
        if self._start <= now <= self._end:
            self._succeeded_within += not failure
        if not self._start <= due < self._end:
            return
        self._counted += 1
        self._sent += size
        self._received += received
        self._late.append(sent - due)
        if failure:
            self._errors[failure] += 1
        else:
            self._latencies.append(now - due)
        if self._counted == self._load.requests:
            self._finish()

    def _outcome(self, whole: Whole) -> Outcome:
        load = self._load
        seconds = max(1e-9, self._end - self._start)
        shape: dict[str, str | float] = {"loop": "closed", "clients": load.clients}
        if load.rate is not None:
            shape = {"loop": "open", "rate": load.rate, "arrivals": load.arrivals}
        return Outcome(
            load=shape,
            seconds=seconds,
            requests=self._counted,
            succeeded=len(self._latencies),
            throughput=self._succeeded_within / seconds,
            latency_ms=percentiles(self._latencies),
            errors=dict(self._errors.most_common()),
            bytes_sent=self._sent,
            bytes_received=self._received,
            sent_late_ms=percentiles(self._late) if load.rate is not None else {},
            whole=whole,
            interrupted=self._stopped,
            curve=curve(self._latencies),
        )


def run_load(load: Load, target: Target, requests: list[bytes]) -> Outcome:
    """Send these requests in turn, in an event loop of its own; Ctrl-C ends it with the outcome so far."""
    # the pacer must not wait for the interpreter as long as the default, 5 ms
    sys.setswitchinterval(_SWITCH_SECONDS)

    async def main() -> Outcome:
        run = LoadRun(load, target, requests)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, run.stop)
        try:
            return await run.run()
        finally:
            loop.remove_signal_handler(signal.SIGINT)

    return uvloop.run(main())


def probe(target: Target, body: bytes, seconds: float) -> Answer:
    """One request before the load, whose answer is kept. Raises as `Connection.exchange` does."""

    async def main() -> Answer:
        connection = Connection()
        try:
            return await connection.exchange(target, target.request(body), seconds, keep_body=True)
        finally:
            connection.close()

    return uvloop.run(main())
