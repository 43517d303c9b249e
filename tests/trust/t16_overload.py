"""T16: ten times more requests than can be answered, and a model that has nothing to do with them.

The peak is found with a closed loop; then an open loop offers it once, twice and ten times. The
model's time is fixed, so that the peak is the worker's, and what is lost is lost to refusals.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil

from flambeau.errors import FlambeauError
from flambeau.scheduling.batcher import Batcher
from flambeau.scheduling.deadlines import Deadlines
from flambeau.scheduling.queue import Entry, RequestQueue
from flambeau.testing.waiting import wait_until
from tests.trust.crowds import Crowd, Seen, Stream, offer, quantile
from tests.trust.servers import TrustServer, trust_server
from tests.trust.suite import Figures, Limit, Run, Suite

_QUEUE = 20
_DEADLINE_SECONDS = 0.5
_SHOWN = 10
_CALM_RATE = 20
_TRIES = 3
_MOST_DENIED = 0.15
"""Where others have the server's core for longer than this share of the time, it is tried again."""

_STATUSES = frozenset({"200", "429", "503", "504"})

# Takes 5 ms, or what a header says, and notes whom it has computed.
_SLEEPER = """
import time

ran = []

def handle(data, context):
    if data is None:
        return None
    answers = []
    for index, row in enumerate(data):
        text = bytes(row.get("body") or b"").decode()
        if context.get_request_header(index, "x-ran"):
            answers.append({"ran": ran[-1000:]})
            continue
        ran.append(text)
        if context.get_request_header(index, "x-file"):
            open(context.get_request_header(index, "x-file"), "w").close()
        time.sleep(float(context.get_request_header(index, "x-sleep") or 0.005))
        answers.append(text)
    return answers
"""


def run(run: Run) -> Figures:
    """Offer more and more; then let requests wait for longer than they may."""
    bounds = {"job_queue_size": _QUEUE, "job_queue_timeout": _DEADLINE_SECONDS}
    with trust_server(run, {"hot": 1, "calm": 1}, source=_SLEEPER, properties=bounds) as server:
        core = _pin(server)
        hot, calm = (f"{server.inference}/predictions/{name}" for name in ("hot", "calm"))

        def offered(*streams: Stream, seconds: float) -> list[Seen]:
            return offer(Crowd(list(streams), seconds, run.seed, core))

        offered(Stream(hot, clients=8), Stream(calm, clients=1), seconds=1)
        figures: Figures = {"cores": os.cpu_count() or 1}
        denied = 0.0
        with _watched(server) as growth:
            for _ in range(_TRIES):
                (closed,) = offered(Stream(hot, clients=8), seconds=run.amount(3, 10, 2))
                peak = len(closed.good) / closed.seconds
                for factor, seconds in ((1, 2), (2, 2), (10, run.amount(6, 60, 3))):
                    waited = _waited(server)
                    streams = Stream(hot, rate=factor * peak), Stream(calm, rate=_CALM_RATE)
                    seen, other = offered(*streams, seconds=seconds)
                    figures |= _told(seen, other, peak)
                    figures[f"goodput_{factor}x"] = figures["goodput_ratio"]
                    denied = (_waited(server) - waited) / seconds
                figures |= {"peak_rps": peak, "core_denied": denied}
                if denied <= _MOST_DENIED:
                    break
        figures["rss_growth_mb"] = max(growth) / 2**20
        figures["expired"], figures["expired_run"] = _expired(hot, run.folder / "held")
        figures["dead"] = 2 - server.alive("hot") - server.alive("calm")
    return figures


def _pin(server: TrustServer) -> int:
    """Keep the server and its workers on one core, where there are two; returns the client's."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return -1
    for process in (psutil.Process(server.pid), *server.descendants()):
        for thread in process.threads():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread.id, {cores[0]})
    return cores[1]


def _waited(server: TrustServer) -> float:
    """Seconds in which the server's event loop could have run, and others had its core."""
    told = Path(f"/proc/{server.pid}/schedstat").read_text().split()
    return int(told[1]) / 1e9


@contextlib.contextmanager
def _watched(server: TrustServer) -> Iterator[list[int]]:
    """Notes, five times a second, by how many bytes the server process has grown."""
    process = psutil.Process(server.pid)
    before = process.memory_info().rss
    growth = [0]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            growth.append(process.memory_info().rss - before)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield growth
    finally:
        over.set()
        watching.join()


def _told(seen: Seen, other: Seen, peak: float) -> Figures:
    """The figures of one load; those of the last one are judged."""
    in_time = [took for took in seen.good if took <= _DEADLINE_SECONDS * 1000]
    return {
        "offered_ratio": sum(seen.answers.values()) / seen.seconds / peak,
        "goodput_ratio": len(in_time) / seen.seconds / peak,
        "accepted_p99_ms": quantile(seen.good, 0.99),
        "accepted_late": len(seen.good) - len(in_time),
        "refused": len(seen.refused),
        "reject_p50_ms": quantile(seen.refused, 0.5),
        "reject_p99_ms": quantile(seen.refused, 0.99),
        "without_retry_after": seen.unexplained,
        "unanswered": sum(n for status, n in seen.answers.items() if status not in _STATUSES),
        "client_late_p99_ms": quantile(seen.late, 0.99),
        "other_model_errors": sum(other.answers.values()) - other.answers.get("200", 0),
        "other_model_p99_ms": quantile(other.good, 0.99),
    }


def _expired(url: str, held: Path) -> tuple[int, int]:
    """How many gave 504 behind a request that holds the worker for too long; who of them ran."""

    def ask(text: str, **headers: str) -> httpx.Response:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        return client.post(url, content=text.encode(), headers=named)

    with httpx.Client(timeout=30) as client, ThreadPoolExecutor(_SHOWN + 1) as threads:
        sleep = str(5 * _DEADLINE_SECONDS)
        holding = threads.submit(ask, "holds", x_sleep=sleep, x_file=str(held))
        wait_until(held.exists)
        names = [f"late-{number}" for number in range(_SHOWN)]
        answers = list(threads.map(ask, names))
        holding.result()
        ran = set(ask("", x_ran="yes").json()["ran"])
    return sum(each.status_code == 504 for each in answers), len(ran & set(names))


def _no_bound() -> None:
    """Queues take whatever comes."""
    RequestQueue.check = lambda _queue: None  # type: ignore[method-assign, assignment]


def _slow_reject() -> None:
    """A refusal costs 5 ms of the event loop."""
    check = Batcher.check

    def slowly(batcher: Batcher) -> None:
        try:
            check(batcher)
        except FlambeauError:
            until = time.monotonic() + 0.005
            while time.monotonic() < until:
                pass
            raise

    Batcher.check = slowly  # type: ignore[method-assign, assignment]


def _no_deadlines() -> None:
    """Whoever has waited for too long is computed all the same."""

    def ignore(_deadlines: Deadlines, entry: Entry) -> None:
        entry.deadline = None

    Deadlines.watch = ignore  # type: ignore[method-assign, assignment]


def _constant_wait() -> None:
    """Refusals do not say when to come back."""
    Batcher._with_wait = lambda _batcher, error: error  # type: ignore[method-assign, assignment]


SUITE = Suite(
    name="t16",
    title="overload",
    promises=("G8",),
    limits=(
        Limit("offered_ratio", low=8),
        Limit("goodput_ratio", low=0.90),
        Limit("goodput_ratio", low=0.95, nightly=True),
        Limit("reject_p99_ms", high=50),
        Limit("refused", low=1),
        Limit("without_retry_after", exactly=0),
        Limit("unanswered", exactly=0),
        Limit("accepted_late", exactly=0),
        Limit("rss_growth_mb", high=64),
        Limit("other_model_errors", exactly=0),
        Limit("other_model_p99_ms", high=100),
        Limit("expired", exactly=_SHOWN),
        Limit("expired_run", exactly=0),
        Limit("dead", exactly=0),
    ),
    controls={
        "unbounded-queue": _no_bound,
        "slow-reject": _slow_reject,
        "no-deadlines": _no_deadlines,
        "no-retry-after": _constant_wait,
    },
    run=run,
    alone=True,
)
