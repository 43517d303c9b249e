"""T22: clients that leave at each stage of a request, in each way that a connection can end.

Over HTTP; there is no gRPC yet. Figures are how soon work that waits is gone and work that runs has
stopped, whether every place is free afterwards, and what was computed for nobody.
"""

import contextlib
import re
import socket
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from flambeau.frontend.exchange import Exchange
from flambeau.scheduling.batcher import Batcher
from flambeau.supervisor.slot import Slot
from flambeau.testing.waiting import wait_until
from tests.trust.crowds import quantile
from tests.trust.servers import TrustServer, trust_server
from tests.trust.suite import Figures, Limit, Run, Suite

_PATIENCE_SECONDS = 3.0
_LONG_SECONDS = "5"
_WAITING = 3
_CROWD = 40

# Works for as long as a header says, in slices, looking whether anybody still waits.
_WORKER = """
import time
from ts.handler_utils.utils import send_intermediate_predict_response

spent = {}

def handle(data, context):
    if data is None:
        return None
    header = lambda name: context.get_request_header(0, name)
    if header("x-spent"):
        return [{"spent": spent}]
    name, file = bytes(data[0].get("body") or b"").decode(), header("x-file")
    if file:
        open(file, "w").close()
    begin = time.monotonic()
    try:
        while time.monotonic() < begin + float(header("x-seconds") or 0.005):
            if header("x-stream"):
                send_intermediate_predict_response(
                    ["part "], context.request_ids, "", 200, context)
            elif context.is_cancelled():
                break
            time.sleep(0.005)
    finally:
        spent[name] = time.monotonic() - begin
        if file:
            open(file + ".end", "w").close()
    return [name]
"""


class _Stage:
    """A server, and the clients that leave it."""

    def __init__(self, run: Run, server: TrustServer) -> None:
        self.folder = run.folder
        self.random = run.random()
        self.server = server
        self.http = httpx.Client(timeout=30)
        self.address = httpx.URL(server.inference)
        self.cases = self.stuck = self.cancels = 0
        self.unheard = 0
        self.queued_ms: list[float] = []
        self.running_s: list[float] = []

    def connect(self, data: bytes) -> socket.socket:
        """A client that has sent so much."""
        sock = socket.create_connection((self.address.host, self.address.port or 80), timeout=30)
        sock.sendall(data)
        return sock

    def leave(self, *socks: socket.socket) -> float:
        """By FIN or by RST, in turn; returns when the last one was gone."""
        self.cases += 1
        for sock in socks:
            if self.cases % 2:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        return time.monotonic()

    def waiting(self) -> int:
        """Requests in the model's queue."""
        url = f"{self.server.management}/models/stub"
        return int(self.http.get(url).json()[0]["jobQueueStatus"]["pendingRequests"])

    def soon(self, done: Callable[[], bool], since: float) -> float:
        """Seconds until something is so; what takes too long is noted."""
        while not done():
            if time.monotonic() > since + _PATIENCE_SECONDS:
                self.unheard += 1
                break
        return time.monotonic() - since

    def check(self) -> None:
        """The place is free: the next request is answered."""
        try:
            url = f"{self.server.inference}/predictions/stub"
            self.stuck += self.http.post(url, content=b"good", timeout=10).text != "good"
        except httpx.HTTPError:
            self.stuck += 1

    def spent(self) -> dict[str, float]:
        """Seconds that the handler has spent on each body."""
        url = f"{self.server.inference}/predictions/stub"
        found: dict[str, float] = self.http.post(url, headers={"x-spent": "yes"}).json()["spent"]
        return found

    def counted(self) -> int:
        """How many requests the metrics say were cancelled."""
        text = self.http.get(f"{self.server.metrics}/metrics").text
        found = re.search(r'request_failures_total\{[^}]*kind="cancelled"[^}]*\} (\S+)', text)
        return int(float(found[1])) if found else 0


def run(run: Run) -> Figures:
    """All stages, some times each."""
    bounds = {"job_queue_size": 2 * _CROWD}
    with trust_server(run, source=_WORKER, properties=bounds) as server:
        stage = _Stage(run, server)
        for number in range(run.amount(8, 80, 1)):
            _before_it_is_accepted(stage)
            _queued(stage, number)
            _running(stage, number, stream=False)
            _running(stage, number, stream=True)
        counted = stage.counted()
        cancels = stage.cancels
        for number in range(run.amount(60, 600, 4)):
            _at_the_same_moment(stage, number)
        stage.check()
        wasted = _half_leave(stage)
        dead = 0 if server.alive() else 1
        return {
            "cases": stage.cases,
            "cancel_p50_ms": quantile(stage.queued_ms, 0.5),
            "cancel_p99_ms": quantile(stage.queued_ms, 0.99),
            "stop_max_s": max(stage.running_s),
            "stuck": stage.stuck,
            "unheard": stage.unheard,
            "cancels": cancels,
            "uncounted": cancels - counted,
            "wasted": wasted,
            "left_in_queue": stage.waiting(),
            "dead": dead,
        }


def _before_it_is_accepted(stage: _Stage) -> None:
    """Within the head, and within the body: no model has heard of it."""
    whole = _request("never", {}, 1000)
    for part in (whole[:30], whole[:-900]):
        stage.leave(stage.connect(part))
    stage.check()


def _queued(stage: _Stage, number: int) -> None:
    """Some wait behind one that runs, and leave together."""
    file = stage.folder / f"held-{number}"
    holding = stage.connect(_request("held", {"x-seconds": _LONG_SECONDS, "x-file": str(file)}))
    wait_until(file.exists)
    behind = [stage.connect(_request(f"queued-{number}", {})) for _ in range(_WAITING)]
    wait_until(lambda: stage.waiting() == _WAITING)
    since = stage.leave(*behind)
    stage.queued_ms.append(stage.soon(lambda: stage.waiting() == 0, since) * 1000)
    stage.cancels += _WAITING
    _stops(stage, holding, file)


def _running(stage: _Stage, number: int, *, stream: bool) -> None:
    """A handler that looks whether anybody waits; a stream stops at its next part."""
    kind = "stream" if stream else "work"
    file = stage.folder / f"{kind}-{number}"
    told = {"x-seconds": _LONG_SECONDS, "x-file": str(file)} | (
        {"x-stream": "yes"} if stream else {}
    )
    client = stage.connect(_request(kind, told))
    wait_until(file.exists)
    if stream:
        client.recv(1000)
    _stops(stage, client, file)


def _stops(stage: _Stage, client: socket.socket, file: Path) -> None:
    since = stage.leave(client)
    end = Path(f"{file}.end")
    stage.running_s.append(stage.soon(end.exists, since))
    stage.cancels += 1
    stage.check()


def _at_the_same_moment(stage: _Stage, number: int) -> None:
    """The client leaves when its answer is about to come, or has just come."""
    client = stage.connect(_request(f"race-{number}", {}))
    client.settimeout(stage.random.uniform(0.001, 0.012))
    with contextlib.suppress(TimeoutError):
        client.recv(1)
    stage.leave(client)
    if number % 10 == 0:
        stage.check()


def _half_leave(stage: _Stage) -> float:
    """Many come at once, and half of them soon leave: the share of work that was for those."""
    leavers = set(stage.random.sample(range(_CROWD), _CROWD // 2))
    moments = [stage.random.uniform(0.05, 0.3) for _ in range(_CROWD)]

    def visit(number: int) -> str:
        name = f"crowd-{number}"
        client = stage.connect(_request(name, {"x-seconds": "0.03"}))
        client.settimeout(moments[number] if number in leavers else 30)
        try:
            return "" if client.recv(1000) else name
        except TimeoutError:
            return name
        finally:
            client.close()

    with ThreadPoolExecutor(_CROWD) as threads:
        unread = set(threads.map(visit, range(_CROWD)))
    stage.cases += len(leavers)
    stage.check()
    spent = {name: took for name, took in stage.spent().items() if name.startswith("crowd-")}
    return sum(took for name, took in spent.items() if name in unread) / sum(spent.values())


def _request(body: str, headers: dict[str, str], length: int = 0) -> bytes:
    """The bytes of a request, its body filled up to `length`."""
    content = body.ljust(length).encode()
    lines = [
        "POST /predictions/stub HTTP/1.1",
        "host: localhost",
        f"content-length: {len(content)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + content


def _ignore_leave() -> None:
    """Nobody hears that a client has left."""
    Exchange.on_left = lambda _exchange, _call: None  # type: ignore[method-assign, assignment]


def _keep_place() -> None:
    """Who has left keeps the place in the queue."""
    Batcher.withdrawn = lambda _batcher, _entry: None  # type: ignore[method-assign, assignment]


def _tell_no_worker() -> None:
    """What runs is not stopped."""
    Slot.cancel = lambda _slot, _job, _items=(): None  # type: ignore[method-assign, assignment]


SUITE = Suite(
    name="t22",
    title="cancel",
    promises=("G7",),
    limits=(
        Limit("cancel_p99_ms", high=50),
        Limit("stop_max_s", high=1),
        Limit("stuck", exactly=0),
        Limit("unheard", exactly=0),
        Limit("uncounted", exactly=0),
        Limit("wasted", high=0.05),
        Limit("left_in_queue", exactly=0),
        Limit("dead", exactly=0),
    ),
    controls={
        "ignore-leave": _ignore_leave,
        "keep-place": _keep_place,
        "tell-no-worker": _tell_no_worker,
    },
    run=run,
)
