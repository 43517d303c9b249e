"""T23: the wall clock jumps by an hour and by a year, both ways, and no wait notices.

A server whose wall clock can be set waits for several things that take a second each: a silent
worker's time-out, a client's, a batch that is held back, the pause before a worker that has died four times
is started again. In the midst of them the clock jumps. Statuses and durations have to be as ever.
And nothing below src/flambeau reads the wall clock but what is listed with its reason.
"""

import asyncio
import contextlib
import datetime
import os
import signal
import time
from collections.abc import Callable

import httpx

from flambeau.supervisor import process
from flambeau.testing.echo import Gate, write_model
from tests.trust.servers import STUB, TrustServer, trust_server
from tests.trust.suite import Figures, Limit, Run, Suite
from tests.trust.wall_clock import ALLOWED, WallClock, readers

_HOUR, _YEAR = 3600, 365 * 86400
_JUMPS = (_HOUR, -_HOUR, _YEAR, -_YEAR)
_JUMP_AFTER = 0.3
_SHORTEST, _LONGEST = 0.9, 3.0
"""Bounds of what takes a second, on a busy machine; a worker's stacks and its start included."""


def run(run: Run) -> Figures:
    """All waits at once, for each jump."""
    clock = WallClock(run.folder)
    store = run.folder / "server" / "store"
    write_model(store, "silent", STUB, responseTimeout=1)
    write_model(store, "patient", STUB, clientTimeoutInMills=1000)
    write_model(store, "held", STUB, batchSize=200, maxBatchDelay=1000)
    write_model(store, "killed", STUB)
    models = dict.fromkeys(("silent", "patient", "held", "killed"), 1)
    with trust_server(run, models, environment=clock.environment) as server:
        outcomes, seen = asyncio.run(_all_jumps(run, server, clock))
        alive = server.alive("killed")
    found = readers()
    return {
        "jumps": len(_JUMPS),
        "jumps_seen": seen,
        "waits": len(outcomes),
        "diff": sum(not ok for ok in outcomes),
        "unlisted_reads": sum(len(lines) for name, lines in found.items() if name not in ALLOWED),
        "stale_allowances": len(set(ALLOWED) - set(found)),
        "server_alive": int(alive),
    }


async def _all_jumps(run: Run, server: TrustServer, clock: WallClock) -> tuple[list[bool], int]:
    outcomes: list[bool] = []
    seen = 0
    async with httpx.AsyncClient(timeout=6) as http:
        for number, jump in enumerate(_JUMPS):
            gate = Gate(run.folder / f"gate-{number}")
            waits = [
                _ask(http, server, "silent", 504, {"x-do": "hang", "x-number": str(number)}),
                _wait_behind(http, server, gate),
                _hold_back(http, server),
                _restart(http, server),
            ]
            going = asyncio.gather(*waits)
            await asyncio.sleep(_JUMP_AFTER)
            clock.jump(jump)
            outcomes += await going
            seen += abs(await _offset(http, server) - jump) < 60
            clock.jump(0)
            with contextlib.suppress(httpx.HTTPError):  # its next failure is the first one
                await http.post(f"{server.inference}/predictions/silent")
    return outcomes, seen


async def _ask(
    http: httpx.AsyncClient, server: TrustServer, model: str, status: int, headers: dict[str, str]
) -> bool:
    """Whether a request is answered so, after a second."""
    begun = time.monotonic()
    try:
        answer = await http.post(f"{server.inference}/predictions/{model}", headers=headers)
    except httpx.HTTPError:
        return False
    return answer.status_code == status and _takes_a_second(begun)


async def _hold_back(http: httpx.AsyncClient, server: TrustServer) -> bool:
    """A batch that is not full is held back for a moment, in which the clock jumps."""
    await asyncio.sleep(_JUMP_AFTER - 0.03)
    begun = time.monotonic()
    try:
        answer = await http.post(f"{server.inference}/predictions/held")
    except httpx.HTTPError:
        return False
    return answer.status_code == 200 and time.monotonic() - begun < _LONGEST


async def _wait_behind(http: httpx.AsyncClient, server: TrustServer, gate: Gate) -> bool:
    """A request waits for a worker that is busy until its client's time-out."""
    url = f"{server.inference}/predictions/patient"
    headers = {"x-do": "gate", "x-file": str(gate.file)}
    busy = asyncio.ensure_future(http.post(url, headers=headers))
    while not gate.entered():  # noqa: ASYNC110  # a file of another process
        await asyncio.sleep(0.01)
    late = await _ask(http, server, "patient", 504, {})
    gate.open()
    await asyncio.gather(busy, return_exceptions=True)
    return late


async def _restart(http: httpx.AsyncClient, server: TrustServer) -> bool:
    """A worker that dies for the fourth time without an answer is started again after a second."""
    url = f"{server.inference}/predictions/killed"
    await http.post(url)
    for _ in range(3):
        await _kill(http, server)
    begun = time.monotonic()
    back = await _kill(http, server)
    in_time = _takes_a_second(begun)
    await http.post(url)
    return back and in_time


async def _kill(http: httpx.AsyncClient, server: TrustServer) -> bool:
    """Kill the worker of `killed`; whether there is another one within seconds."""
    pids = await _ready(http, server)
    os.kill(pids[0], signal.SIGKILL)
    begun = time.monotonic()
    while (await _ready(http, server)) in ([], pids):
        await asyncio.sleep(0.01)
        if time.monotonic() - begun > 6:
            return False
    return True


def _takes_a_second(begun: float) -> bool:
    return _SHORTEST <= time.monotonic() - begun <= _LONGEST


async def _ready(http: httpx.AsyncClient, server: TrustServer) -> list[int]:
    workers = await _workers(http, server)
    return [int(str(each["pid"])) for each in workers if each["status"] == "READY"]


async def _workers(http: httpx.AsyncClient, server: TrustServer) -> list[dict[str, object]]:
    answer = await http.get(f"{server.management}/models/killed")
    found: list[dict[str, object]] = answer.json()[0]["workers"]
    return found


async def _offset(http: httpx.AsyncClient, server: TrustServer) -> float:
    """Seconds by which the server's wall clock is off: it tells when a young worker was started."""
    (worker,) = await _workers(http, server)
    told = datetime.datetime.fromisoformat(str(worker["startTime"]))
    return (told - datetime.datetime.now(datetime.UTC)).total_seconds()


def _wall_clock() -> None:
    """Time-outs of workers are measured on the wall clock."""

    begin = process._Clock.__init__

    def begun(self: process._Clock, seconds: float, expire: Callable[[], None]) -> None:
        begin(self, seconds, expire)
        self._since = time.time()

    def due(self: process._Clock) -> None:
        left = self._since + self._seconds - time.time()
        if left <= 0:
            self._expire()
        else:
            self._timer = self._loop.call_later(left, self._due)

    process._Clock.__init__ = begun  # type: ignore[method-assign]
    process._Clock._due = due  # type: ignore[method-assign]


SUITE = Suite(
    name="t23",
    title="clock",
    promises=("G17",),
    limits=(
        Limit("jumps_seen", exactly=len(_JUMPS)),
        Limit("waits", exactly=4 * len(_JUMPS)),
        Limit("diff", exactly=0),
        Limit("unlisted_reads", exactly=0),
        Limit("stale_allowances", exactly=0),
        Limit("server_alive", exactly=1),
    ),
    controls={"wall-clock": _wall_clock},
    run=run,
)
