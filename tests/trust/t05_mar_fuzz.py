"""T5: no archive writes outside its folder, makes anything but files and folders, or outgrows its caps."""

import itertools
import os
import resource
import shutil
import stat
import tarfile
import time
import zipfile
from pathlib import Path
from typing import BinaryIO

import httpx

from flambeau.archive import store as stores
from flambeau.archive import tar_reader, zip_reader
from flambeau.archive.entries import Limits
from flambeau.archive.store import ModelStore
from flambeau.archive.unpack import UnpackedFile
from flambeau.errors import FlambeauError
from tests.trust.forged_mars import MOST_UP, Forged, forged, good_mar
from tests.trust.servers import trust_server
from tests.trust.suite import Figures, Limit, Run, Suite

_LIMITS = Limits(entries=200, total_bytes=1 << 22, ratio=20, ratio_floor_bytes=1 << 20, depth=16)
_CAP = _LIMITS.ratio_floor_bytes
"""What a small archive may unpack to."""

Tree = dict[str, tuple[int, int, int, int]]


def run(run: Run) -> Figures:
    """Open them in this process, one by one; then some through the management API of a server."""
    random_ = run.random()
    world = run.folder.joinpath("world", *map(str, range(MOST_UP)))
    victim = world / "victim"
    victim.mkdir(parents=True)
    (victim / "secret").write_text("secret")
    bench = _Bench(run.folder / "world", world)
    for each in forged(random_, victim, run.amount(2100, 50_000, 240)):
        bench.open(each)
    some = forged(random_, victim, run.amount(40, 400, 20))
    return bench.figures() | _register(run, list(some))


class _Bench:
    """A store and a cache in a small world, which is compared before and after each archive."""

    def __init__(self, top: Path, world: Path) -> None:
        self._top = top
        self._cache = world / "cache"
        self._root = world / "store"
        self._root.mkdir()
        self._cache.mkdir()
        self._count = dict.fromkeys(
            ("archives", "escaped_bytes", "special_files", "store_changed", "crashed", "over_cap",
             "hostile_admitted", "left"), 0)  # fmt: skip
        self._admitted = 0
        self._slowest = 0.0
        self._rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def open(self, archive: Forged) -> None:
        """Open one archive as the server does, and look at what is different then."""
        path = self._root / archive.name
        path.write_bytes(archive.data)
        store = ModelStore(self._root, self._cache, _LIMITS)
        before = self._tree()
        started = time.perf_counter()
        admitted, crash = False, ""
        try:
            store.open(path)
            admitted = True
        except FlambeauError:
            pass
        except Exception as error:  # noqa: BLE001  # each is a finding
            crash = f"{type(error).__name__}: {error}"
        self._slowest = max(self._slowest, time.perf_counter() - started)
        self._judge(archive, before, admitted=admitted, crash=crash)
        if path.exists() and path.read_bytes() != archive.data:
            self._count["store_changed"] += 1
        del store  # lets the archive go
        shutil.rmtree(self._cache, ignore_errors=True)
        shutil.rmtree(self._root, ignore_errors=True)
        self._cache.mkdir()
        self._root.mkdir()

    def _judge(self, archive: Forged, before: Tree, *, admitted: bool, crash: str) -> None:
        self._count["archives"] += 1
        self._count["crashed"] += bool(crash)
        wrong = admitted and archive.hostile is True
        self._count["hostile_admitted"] += wrong
        self._admitted += admitted
        if crash or wrong:
            print(
                f"t5: {archive.kind} {archive.name}: admitted={admitted} {crash} {archive.data[:200]!r}"
            )
        after = self._tree()
        for name in before.keys() | after.keys():
            if before.get(name) != after.get(name):
                self._count["escaped_bytes"] += 1 + after.get(name, (0, 0, 0, 0))[1]
                print(f"t5: {archive.kind} {archive.name}: {name} changed")
        self._look_at_cache(archive, admitted=admitted)

    def _look_at_cache(self, archive: Forged, *, admitted: bool) -> None:
        size = 0
        for folder, folders, files in os.walk(self._cache):
            for name in itertools.chain(folders, files):
                status = os.lstat(os.path.join(folder, name))
                plain = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
                linked = stat.S_ISREG(status.st_mode) and status.st_nlink > 1
                if not plain or linked or status.st_mode & 0o7000:
                    self._count["special_files"] += 1
                if stat.S_ISREG(status.st_mode):
                    size += status.st_size
                if not admitted and not name.endswith((".lock", ".use")):
                    self._count["left"] += 1
        self._count["over_cap"] += size > max(_CAP, _LIMITS.ratio * len(archive.data)) + 65_536

    def _tree(self) -> Tree:
        """Everything in the world but the cache: kind, size, number of links, time of change."""
        found: Tree = {}
        for folder, folders, files in os.walk(self._top):
            if folder == str(self._cache):
                folders.clear()
                continue
            for name in itertools.chain(folders, files):
                path = os.path.join(folder, name)
                status = os.lstat(path)
                size = status.st_size if stat.S_ISREG(status.st_mode) else 0
                changed = status.st_mtime_ns if stat.S_ISREG(status.st_mode) else 0
                found[path] = (
                    stat.S_IFMT(status.st_mode),
                    size,
                    status.st_nlink if size else 0,
                    changed,
                )
        return found

    def figures(self) -> Figures:
        """What was counted."""
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self._rss) // 1024
        return {
            **self._count,
            "admitted": self._admitted,
            "max_s": self._slowest,
            "memory_mb": grown,
        }


def _register(run: Run, archives: list[Forged]) -> Figures:
    """Have a real server register archives, which has to answer each, and lives on."""
    with trust_server(run) as server:
        store = server.folder / "store"
        answered = refused = wrong = 0
        for each in archives:
            (store / each.name).write_bytes(each.data)
            query = {"url": each.name, "model_name": f"m{answered}", "initial_workers": "0"}
            answer = httpx.post(f"{server.management}/models", params=query, timeout=60)
            answered += 400 <= answer.status_code < 500 or answer.status_code == 200
            refused += 400 <= answer.status_code < 500
            known = each.hostile and each.kind not in ("crowd", "bomb", "tar bomb")  # other limits
            wrong += bool(known) and answer.status_code == 200
        (store / "good.mar").write_bytes(good_mar())
        query = {"url": "good.mar", "model_name": "good", "initial_workers": "0"}
        good = httpx.post(f"{server.management}/models", params=query, timeout=60)
        alive = server.alive()
    return {
        "server_archives": len(archives),
        "server_unanswered": len(archives) - answered,
        "server_refused": refused,
        "server_admitted": wrong,
        "server_alive": int(alive and good.status_code == 200),
    }


def _no_containment() -> None:
    """Take names as they are."""

    def plain(name: str, *, drop_first: bool = False) -> tuple[str, ...]:
        parts = tuple(part for part in name.split("/") if part)
        return parts[1:] if drop_first and len(parts) > 1 else parts

    zip_reader.entry_parts = plain  # type: ignore[attr-defined]  # a flaw
    tar_reader.entry_parts = plain  # type: ignore[attr-defined]  # a flaw


def _stdlib() -> None:
    """Unpack with the standard library, as of Python 3.11.7."""

    def extract(
        file: BinaryIO, name: str, folder: Path, limits: Limits
    ) -> tuple[UnpackedFile, ...]:
        if name.endswith(".tar.gz"):
            with tarfile.open(fileobj=file) as archive:
                archive.extractall(folder)  # the flaw
        else:
            with zipfile.ZipFile(file) as archive_:
                archive_.extractall(folder)
        files = [each for each in folder.rglob("*") if each.is_file()]
        return tuple(
            UnpackedFile(each.relative_to(folder).as_posix(), each.stat().st_size) for each in files
        )

    stores.extract = extract  # type: ignore[attr-defined]  # a flaw


def _no_cap() -> None:
    """Let an archive grow to what it likes."""
    Limits.unpacked_bytes = lambda self, archive_bytes: 1 << 40  # type: ignore[method-assign]  # a flaw


SUITE = Suite(
    name="t5",
    title="mar_fuzz",
    promises=("G28",),
    limits=(
        Limit("archives", low=240),
        Limit("archives", low=10_000, nightly=True),
        Limit("escaped_bytes", exactly=0),
        Limit("special_files", exactly=0),
        Limit("store_changed", exactly=0),
        Limit("crashed", exactly=0),
        Limit("over_cap", exactly=0),
        Limit("hostile_admitted", exactly=0),
        Limit("left", exactly=0),
        Limit("max_s", high=2),
        Limit("memory_mb", high=256),
        Limit("server_unanswered", exactly=0),
        Limit("server_admitted", exactly=0),
        Limit("server_alive", exactly=1),
    ),
    controls={"no-containment": _no_containment, "stdlib-extract": _stdlib, "no-cap": _no_cap},
    run=run,
)
