"""T18: rolling restarts, new versions and killed front ends under load: what a client notices."""

import contextlib
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil

from flambeau.server import Server
from flambeau.serving.registry import Registry
from flambeau.serving.served_model import ServedModel
from flambeau.testing.waiting import wait_until
from tests.trust.followers import Load, Ready
from tests.trust.mars import write_mar
from tests.trust.servers import TrustServer, trust_server
from tests.trust.suite import Figures, Limit, Run, Suite

_HANDLER = """
def handle(data, context):
    if data is None:
        return None
    return [context.manifest["model"]["modelVersion"]] * len(data)
"""
_DRAIN = {"drain_delay": 0.5}
_MEMORY_SECONDS = 5.0
_UNNOTICED_SECONDS = 0.25
"""After a kill: a request may have gone to a process that was not quite dead yet."""


def run(run: Run) -> Figures:
    """Restarts and swaps beside each other, on servers of their own; then kills, alone."""
    with ThreadPoolExecutor(2) as both:
        parts = [both.submit(_restart, run), both.submit(_swap, run)]
        figures = parts[0].result() | parts[1].result()
    kills = _kill_front_ends(run)
    both_have = {key: int(figures[key]) + int(kills[key]) for key in figures.keys() & kills.keys()}
    return figures | kills | both_have


# SIGTERM, and the other server


def _restart(run: Run) -> Figures:
    """Two servers; one after the other is told to stop and started again."""
    cycles = run.amount(20, 200, control=4)
    codes: list[int] = []
    orphans = 0
    with contextlib.ExitStack() as stack, Ready() as ready:
        servers = [_started(run, stack, ready, name) for name in "ab"]

        def send(client: httpx.Client) -> int:
            return client.post(f"{ready.next()}/predictions/stub", content=b"x").status_code

        with Load(send, 50) as load:
            for cycle in range(cycles):
                old = servers[cycle % 2]
                processes = old.descendants()
                codes.append(old.stop())
                ready.remove(old.inference)
                orphans += _left(processes)
                servers[cycle % 2] = _started(run, stack, ready, f"{'ab'[cycle % 2]}{cycle}")
        alive = sum(not server.alive() for server in servers)
    return {
        "drains": len(codes),
        "drain_requests": len(load.asked),
        "failed": len(load.failed) + alive,
        "exit_codes_bad": sum(code != 0 for code in codes),
        "orphans": orphans,
    }


def _started(run: Run, stack: contextlib.ExitStack, ready: Ready, name: str) -> TrustServer:
    server = stack.enter_context(trust_server(run, name=name, properties=_DRAIN))
    ready.add(server.inference)
    wait_until(lambda: ready.is_ready(server.inference), 60)
    return server


def _left(processes: list[psutil.Process]) -> int:
    """How many processes of a server that is gone are not; they are ended."""
    _, left = psutil.wait_procs(processes, timeout=3)
    for process in left:
        process.kill()
    return len(left)


# one version after the other


class _Versions:
    """What the one who swaps has done: versions are 1, 2, 3 and so on."""

    def __init__(self) -> None:
        self.current = 1
        self.switching = 1  # the highest that may be the default
        self.leaving = 0  # the highest that may be gone
        self.mixed = 0
        self._lock = threading.Lock()

    def wrong(self) -> None:
        with self._lock:
            self.mixed += 1


def _swap(run: Run) -> Figures:
    """Register, switch, remove; half of the requests name a version. Each tenth new one is broken."""
    swaps = run.amount(100, 1000, control=12)
    versions = _Versions()
    leftover = bad = 0
    with trust_server(run, {}, name="swap") as server:
        assert _register(run, server, 1).status_code == 200

        def send(client: httpx.Client) -> int:
            current = versions.current
            named = time.monotonic_ns() % 2
            path = f"/predictions/m/{current}.0" if named else "/predictions/m"
            answer = client.post(server.inference + path, content=b"x")
            if named and answer.status_code == 404 and versions.leaving >= current:
                return 200  # it may have been gone by then
            highest = current if named else versions.switching
            if answer.status_code == 200 and not current <= float(answer.text) <= highest:
                versions.wrong()
            return answer.status_code

        with Load(send, 50) as load, httpx.Client(timeout=60) as client:
            for new in range(2, swaps + 2):
                if new % 10 == 0:
                    bad += _register(run, server, new, "raise RuntimeError()").status_code == 200
                assert _register(run, server, new).status_code == 200
                old = server.workers("m", f"{new - 1}.0")
                versions.switching = new
                told = client.put(f"{server.management}/models/m/{new}.0/set-default")
                versions.current = new
                versions.leaving = new - 1
                gone = client.delete(f"{server.management}/models/m/{new - 1}.0")
                bad += (told.status_code, gone.status_code) != (200, 200)
                leftover += _still_there(old)
        dead = not server.alive("m")
    return {
        "swaps": swaps,
        "swap_requests": len(load.asked),
        "swap_failed": len(load.failed) + dead,
        "mixed": versions.mixed,
        "memory_kept": leftover,
        "swap_errors": bad,
    }


def _register(
    run: Run, server: TrustServer, version: int, source: str = _HANDLER
) -> httpx.Response:
    store = server.folder / "store"
    kind = "m" if source == _HANDLER else "bad"
    file = write_mar(store / f"{kind}-{version}.mar", "m", version=f"{version}.0", source=source)
    query = {"url": file.name, "initial_workers": "1", "synchronous": "true"}
    return httpx.post(f"{server.management}/models", params=query, timeout=60)


def _still_there(pids: list[int]) -> int:
    end = time.monotonic() + _MEMORY_SECONDS
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    return sum(map(psutil.pid_exists, pids))


# SIGKILL of a front end


def _kill_front_ends(run: Run) -> Figures:
    """One of two front ends is killed, again and again; then the server is."""
    kills = run.amount(5, 25, control=2)
    killed: list[float] = []
    with trust_server(run, name="front-ends", properties={"http_workers": 2}) as server:
        workers = server.workers("stub")

        def send(client: httpx.Client) -> int:
            return client.post(f"{server.inference}/predictions/stub", content=b"x").status_code

        with Load(send, 50) as load:
            for _ in range(kills):
                victim = _front_ends(server)[0]
                killed.append(time.monotonic())
                victim.kill()
                victim.wait(30)
                wait_until(lambda: len(_front_ends(server)) == 2, 30)
                _wait_served(server)
        elsewhere = [each for each in load.failed if not _in_flight(each.began, each.ended, killed)]
        slowest = max(each.ended - each.began for each in load.asked if each.status == 200)
        lost_workers = workers != server.workers("stub")
        failed = int(not server.alive())
        everyone = server.descendants()
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        orphans = _left(everyone)
    return {
        "front_end_kills": kills,
        "lost_in_flight": len(load.failed) - len(elsewhere),
        "lost_elsewhere": len(elsewhere),
        "back_s": slowest,
        "workers_lost": int(lost_workers),
        "failed": failed,
        "orphans": orphans,
    }


def _front_ends(server: TrustServer) -> list[psutil.Process]:
    found = []
    for process in server.descendants():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "flambeau.frontend.process" in process.cmdline():
                found.append(process)
    return found


def _wait_served(server: TrustServer) -> None:
    """Several new connections, so that each front end has some: those that nobody accepts wait."""
    for _ in range(8):
        httpx.get(f"{server.inference}/livez", timeout=30)


def _in_flight(began: float, ended: float, killed: list[float]) -> bool:
    return any(began <= kill + _UNNOTICED_SECONDS and ended >= kill for kill in killed)


# flaws


def _close_at_once() -> None:
    """Close the listeners without telling anybody before."""

    async def carelessly(self: Server) -> None:
        """Wait for nobody."""

    Server._leave = carelessly  # type: ignore[method-assign]


def _switch_before_loaded() -> None:
    """Make a new version the default when it is registered."""
    add = Registry.add

    def carelessly(self: Registry, model: ServedModel) -> None:
        add(self, model)
        self.set_default(model.key.name, model.key.version)

    Registry.add = carelessly  # type: ignore[method-assign]


SUITE = Suite(
    name="t18",
    title="drain_swap",
    promises=("G9", "G10", "G14", "G21"),
    limits=(
        Limit("drains", low=4),
        Limit("swaps", low=12),
        Limit("front_end_kills", low=2),
        Limit("failed", exactly=0),
        Limit("swap_failed", exactly=0),
        Limit("swap_errors", exactly=0),
        Limit("mixed", exactly=0),
        Limit("memory_kept", exactly=0),
        Limit("exit_codes_bad", exactly=0),
        Limit("orphans", exactly=0),
        Limit("lost_elsewhere", exactly=0),
        Limit("workers_lost", exactly=0),
        Limit("back_s", high=2),
    ),
    controls={"close-at-once": _close_at_once, "switch-before-loaded": _switch_before_loaded},
    run=run,
    alone=True,
)
