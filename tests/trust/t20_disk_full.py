"""T20: disks that are full, read-only or broken, descriptors that run out, and half-copied archives.

On servers whose disks are 8 MB in memory, and, call by call, in the functions that write.
"""

import asyncio
import contextlib
import errno
import os
import resource
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil

from flambeau.archive import zip_reader
from flambeau.archive.cache import ArchiveCache
from flambeau.archive.store import ModelStore
from flambeau.config import ServerConfig
from flambeau.errors import ErrorKind, FlambeauError
from flambeau.frontend import http_connection
from flambeau.serving.snapshots import SavedState, Snapshots, newest_snapshot
from flambeau.telemetry.logging import LineHandler
from flambeau.telemetry.rolling import RollingFile
from flambeau.testing.echo import write_model
from flambeau.testing.waiting import wait_until
from tests.trust import mounts
from tests.trust.copies import half_copied
from tests.trust.disks import failing
from tests.trust.mars import write_mar
from tests.trust.servers import TrustServer, trust_server
from tests.trust.suite import Figures, Limit, Run, Suite

_CALLS = ("open", "mkdir", "fsync", "rename", "replace", "fdopen", "unlink", "utime")
_ERRORS = (errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EROFS)
_CONNECTIONS = 300
_ROOM = 110
"""Descriptors beyond those of the idle server; the reserve is 64 of them at most."""


class _Tally:
    """Requests for models that are served, and how changes were answered."""

    def __init__(self, server: TrustServer) -> None:
        self.server = server
        self.unanswered = 0
        self.wrong = 0
        self.points = 0

    def predict(self, count: int) -> None:
        """Ask a served model; each request has to be answered well."""
        with httpx.Client(timeout=5) as client:
            for _ in range(count):
                if self.unanswered >= 3:
                    return  # it is as bad as it can be
                with contextlib.suppress(httpx.HTTPError):
                    url = f"{self.server.inference}/predictions/stub"
                    if client.post(url, content=b"well").status_code == 200:
                        continue
                self.unanswered += 1

    def expect(self, status: int, method: str, path: str, **query: str) -> None:
        """Make a change, which has to be answered so, and by JSON that says why where it fails."""
        self.points += 1
        url = f"{self.server.management}/models{path}"
        try:
            done = httpx.request(method, url, params=query, timeout=10)
        except httpx.HTTPError:
            self.wrong += 1
            return
        told = done.json().get("message", "") if status >= 400 else ""
        if done.status_code != status or (status == 507 and "try again" not in told.lower()):
            print(method, path, query, done.status_code, done.text, flush=True)
            self.wrong += 1

    def metric(self, name: str) -> float:
        """The sum of a metric's series."""
        text = httpx.get(f"{self.server.metrics}/metrics", params={"name[]": name}).text
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        return sum(float(line.rpartition(" ")[2]) for line in lines)


def run(run: Run) -> Figures:
    """Real disks first: a namespace can be had by a process of one thread only."""
    figures: Figures = {"namespace": "yes" if mounts.own_namespace() else "not allowed"}
    if figures["namespace"] == "yes":
        figures |= _on_small_disks(run)
    else:
        figures |= {"unanswered": 0, "wrong_answers": 0}
    figures |= _without_descriptors(run)
    figures |= half_copied(run)
    points, dead = _call_by_call(run)
    figures["points"] = points + int(figures.pop("disk_points", 0))
    figures["dead"] = dead + int(not figures.pop("alive"))
    return figures


def _on_small_disks(run: Run) -> Figures:
    disk = run.folder / "disk"
    cache = disk / "server" / "cache"
    mounts.mount_memory(disk, 8)
    mounts.mount_memory(cache, 8)
    store = disk / "server" / "store"
    write_model(store, "folder")
    for name in ("one", "two", "three"):
        write_mar(store / f"{name}.mar", name)
    outside = write_mar(run.folder / "far.mar", "far")
    environment = {key: str(disk / "logs") for key in ("LOG_LOCATION", "METRICS_LOCATION")}
    try:
        with trust_server(
            run, environment=environment, name="disk/server", snapshots=True,
            properties={"metrics_mode": "log", "allowed_urls": "file://.*"},
        ) as server:  # fmt: skip
            tally = _Tally(server)
            tally.expect(200, "POST", "", url="one.mar", initial_workers="1")
            fillers = [disk / "filler", cache / "filler"]
            _full(tally, fillers, outside)
            told = newest_snapshot(disk / "logs" / "config")[0]
            for filler in fillers:
                filler.unlink()
            lost = tally.metric("flambeau_log_lines_lost_total")
            if not tally.unanswered:  # else it is as bad as it can be
                _room_again(tally, disk, told, outside)
                _read_only(tally, cache)
                tally.predict(20)
            alive = server.alive()
    finally:
        mounts.unmount(cache)
        mounts.unmount(disk)
    return {
        "disk_points": tally.points,
        "unanswered": tally.unanswered,
        "wrong_answers": tally.wrong,
        "lines_lost": int(lost),
        "alive": int(alive),
    }


def _full(tally: _Tally, fillers: list[Path], outside: Path) -> None:
    for filler in fillers:
        mounts.fill(filler)
    tally.predict(250)
    if tally.unanswered:
        return
    tally.expect(507, "POST", "", url="two.mar")
    tally.expect(507, "POST", "", url=outside.as_uri())
    tally.expect(200, "POST", "", url="folder", initial_workers="1")
    tally.expect(200, "PUT", "/stub", min_worker="2", synchronous="true")
    _replaced(tally)
    tally.predict(50)


def _room_again(tally: _Tally, disk: Path, told: Path | None, outside: Path) -> None:
    """Without a restart: models can be registered, logs go on, and what was missed is written down."""
    config = disk / "logs" / "config"
    tally.expect(200, "POST", "", url="two.mar")
    tally.expect(200, "POST", "", url=outside.as_uri())
    log = disk / "logs" / "access_log.log"
    size = log.stat().st_size
    tally.predict(5)
    with contextlib.suppress(TimeoutError):
        wait_until(lambda: log.stat().st_size > size and newest_snapshot(config)[0] != told, 10)
        tally.wrong -= 1
    tally.wrong += 1
    if b"\0" in log.read_bytes() or not log.read_bytes().endswith(b"\n"):
        tally.wrong += 1


def _read_only(tally: _Tally, cache: Path) -> None:
    for name in ("one", "two", "far"):
        tally.expect(200, "DELETE", f"/{name}")
    wait_until(lambda: mounts.remount(cache, read_only=True), 20)  # their locks are let go
    tally.expect(507, "POST", "", url="three.mar")
    tally.predict(20)
    mounts.remount(cache, read_only=False)
    tally.expect(200, "POST", "", url="three.mar")


def _replaced(tally: _Tally) -> None:
    """Kill a worker; another has to take its place."""
    tally.points += 1
    before = tally.server.workers("stub")
    psutil.Process(before[0]).kill()

    def new_one() -> bool:
        now = tally.server.workers("stub")
        return len(now) == len(before) and before[0] not in now

    try:
        wait_until(new_one, 10)
    except (TimeoutError, httpx.HTTPError, LookupError):
        tally.wrong += 1


def _without_descriptors(run: Run) -> Figures:
    """Hold more connections than there are descriptors, and look at everybody else."""
    with trust_server(run, name="crowded") as server:
        tally = _Tally(server)
        used = psutil.Process(server.pid).num_fds()
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (used + _ROOM, used + _ROOM))
        port = int(server.inference.rpartition(":")[2])
        with contextlib.ExitStack() as stack, httpx.Client(timeout=10) as regular:
            regular.post(f"{server.inference}/predictions/stub", content=b"first")
            held = [
                stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
                for _ in range(_CONNECTIONS)
            ]
            answered, refused = _asked(held)
            management = _management(server, regular)
            for _ in range(50):
                url = f"{server.inference}/predictions/stub"
                with contextlib.suppress(httpx.HTTPError):
                    tally.unanswered -= regular.post(url, content=b"well").status_code == 200
                tally.unanswered += 1
            busy = _busy(server)
            replaced = _replaced_quietly(server, regular)
        wait_until(lambda: psutil.Process(server.pid).num_fds() < used + 10, 20)
        alive = server.alive()
    return {
        "connections": len(held),
        "connections_unanswered": len(held) - answered - refused,
        "connections_refused": refused,
        "regular_unanswered": tally.unanswered,
        "management": int(management),
        "worker_replaced": int(replaced),
        "busy_share": busy,
        "alive": int(alive),
    }


def _asked(held: list[socket.socket]) -> tuple[int, int]:
    """How many were answered well, and how many were told 503 with a time to try again."""
    answered = refused = 0
    request = b"GET /ping HTTP/1.1\r\nhost: localhost\r\n\r\n"
    for connection in held:
        with contextlib.suppress(OSError):  # refused already: the answer is still to be read
            connection.sendall(request)
        try:
            head = connection.recv(4096)
        except OSError:
            continue
        answered += head.startswith(b"HTTP/1.1 200")
        refused += head.startswith(b"HTTP/1.1 503") and b"retry-after:" in head.lower()
    return answered, refused


def _management(server: TrustServer, client: httpx.Client) -> bool:
    """Whether an operator still reaches the server, whose connection is a new one."""
    with contextlib.suppress(httpx.HTTPError):
        return client.get(f"{server.management}/models").status_code in (200, 503)
    return False


def _busy(server: TrustServer) -> float:
    """The share of a core that the server takes while nobody asks for anything."""
    process = psutil.Process(server.pid)
    begin, before = time.monotonic(), sum(process.cpu_times()[:2])
    time.sleep(1)
    return (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - begin)


def _replaced_quietly(server: TrustServer, regular: httpx.Client) -> bool:
    """Whether a worker that is killed is replaced while no descriptor is left for clients."""
    url = f"{server.inference}/predictions/stub"

    def pid() -> int:
        found: int = regular.post(url, content=b"well").json()["pid"]
        return found

    try:
        before = pid()
        psutil.Process(before).kill()
        wait_until(lambda: pid() != before, 15)
    except (TimeoutError, httpx.HTTPError, LookupError, ValueError):
        return False
    return True


def _call_by_call(run: Run) -> tuple[int, int]:
    """Let each call of each writer fail, once with each error: points, and those with a bad end.

    Good is an error that says whose fault it is, or none; nothing half-made left; and success at the
    next try.
    """
    points = dead = 0
    folder = run.folder / "calls"
    archive = write_mar(run.folder / "calls.mar", "calls")
    for writer in (_unpacking(folder, archive), _saving(folder)):
        with _fresh(folder), failing(_CALLS, 0, errno.EIO) as counted:
            writer()
        for code in _ERRORS if run.profile == "nightly" else _ERRORS[:3]:
            for number in range(1, counted() + 1):
                points += 1
                with _fresh(folder):
                    dead += not _survives(writer, folder, number, code)
    return points, dead


def _survives(writer: Callable[[], None], folder: Path, number: int, code: int) -> bool:
    try:
        with failing(_CALLS, number, code):
            writer()
    except FlambeauError as error:
        if error.kind is not ErrorKind.STORAGE:
            print(f"call {number}, {os.strerror(code)}: {error.kind} {error}", flush=True)
            return False
    except Exception as error:  # noqa: BLE001  # the bad end
        print(f"call {number}, {os.strerror(code)}: {error!r}", flush=True)
        return False
    writer()
    left = [path for path in folder.rglob("*") if path.name.endswith(".part")]
    if left:
        print(f"call {number}, {os.strerror(code)}: {left}", flush=True)
    return not left


@contextlib.contextmanager
def _fresh(folder: Path) -> Iterator[None]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    yield
    shutil.rmtree(folder, ignore_errors=True)


def _unpacking(folder: Path, archive: Path) -> Callable[[], None]:
    def unpack() -> None:
        store = ModelStore(folder, folder / "cache")
        opened = store.open(archive)
        try:
            assert (opened.model_dir / "weights.bin").stat().st_size == 500_000
        finally:
            store.release(opened)

    return unpack


def _saving(folder: Path) -> Callable[[], None]:
    config = ServerConfig(model_store=folder, cache_dir=folder, snapshots_kept=3)

    def save() -> None:
        writer = Snapshots(folder / "config", config)
        if asyncio.run(writer.save("snapshot", lambda: SavedState({}, {}))):
            assert newest_snapshot(folder / "config")[0] is not None

    return save


def _log_blocks() -> None:
    """Write log lines in the event loop, and wait until the disk takes them."""
    write = RollingFile.write

    def until_written(self: RollingFile, text: str) -> None:
        write(self, text)
        while self._failing:
            time.sleep(0.05)
            write(self, text)

    def in_the_loop(self: LineHandler, *arguments: object, **_: object) -> None:
        made(self, *arguments)  # type: ignore[arg-type]  # as they came
        sink = arguments[1]
        self.write = lambda line: sink.write(line + "\n")  # type: ignore[attr-defined]

    made = LineHandler.__init__
    LineHandler.__init__ = in_the_loop  # type: ignore[method-assign]
    RollingFile.write = until_written  # type: ignore[method-assign]


def _no_reserve() -> None:
    """Give clients every descriptor."""
    setattr(http_connection, "is_scarce", lambda _: False)  # noqa: B010  # imported there


def _leave_stages() -> None:
    """Let what goes wrong while an archive is unpacked be what its caller sees."""
    _open = ArchiveCache.open

    def carelessly(self: ArchiveCache, *arguments: object, **options: object) -> Path:
        try:
            return _open(self, *arguments, **options)  # type: ignore[arg-type]  # as they came
        except OSError as error:
            raise RuntimeError("unpacking failed") from error

    ArchiveCache.open = carelessly  # type: ignore[method-assign]


def _inner_archive() -> None:
    """Take the archive that a file ends with, whatever is before it."""
    setattr(zip_reader, "_check_layout", lambda *_: None)  # noqa: B010  # private


SUITE = Suite(
    name="t20",
    title="disk full",
    promises=("G13", "G11"),
    limits=(
        Limit("points", low=60),
        Limit("dead", exactly=0),
        Limit("unanswered", exactly=0),
        Limit("wrong_answers", exactly=0),
        Limit("regular_unanswered", exactly=0),
        Limit("connections_unanswered", exactly=0),
        Limit("connections_refused", low=100),
        Limit("management", exactly=1),
        Limit("worker_replaced", exactly=1),
        Limit("busy_share", high=0.3),
        Limit("half_copied", low=40),
        Limit("half_copied_bad", exactly=0),
        Limit("half_copied_mb", high=8),
    ),
    controls={
        "log-blocks": _log_blocks,
        "no-reserve": _no_reserve,
        "any-error": _leave_stages,
        "inner-archive": _inner_archive,
    },
    run=run,
)
