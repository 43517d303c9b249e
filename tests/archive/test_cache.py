"""The bounds of the cache of unpacked archives, and who is safe from them."""

import json
import os
import subprocess
import sys
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from flambeau.archive.cache import CacheBounds
from flambeau.archive.store import ModelStore, OpenedArchive
from flambeau.testing.echo import ECHO, predict, register
from flambeau.testing.server import running_server

DAYS = CacheBounds(max_days=5)
TINY = CacheBounds(max_bytes=1)


def make_mar(root: Path, name: str, source: str = ECHO) -> Path:
    root.mkdir(exist_ok=True)
    manifest = {"model": {"modelName": name, "handler": "handler.py:handle"}}
    with zipfile.ZipFile(root / f"{name}.mar", "w") as file:
        file.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        file.writestr("handler.py", source)
    return root / f"{name}.mar"


class Place:
    """A store and its cache."""

    def __init__(self, root: Path) -> None:
        self.root, self.cache = root / "store", root / "cache"

    def store(self, bounds: CacheBounds) -> ModelStore:
        return ModelStore(self.root, self.cache, bounds=bounds)

    def open(self, store: ModelStore, name: str) -> OpenedArchive:
        return store.open(make_mar(self.root, name))

    def age(self, opened: OpenedArchive, days: int) -> None:
        """Make an unpacked archive look unused for so long."""
        then = (datetime.now(UTC) - timedelta(days=days)).timestamp()
        os.utime(opened.model_dir.parent, (then, then))

    def cached(self) -> set[str]:
        """Digests in the cache, and whatever else lies there."""
        names = {path.name for path in self.cache.iterdir()}
        return {name for name in names if not name.endswith((".lock", ".use"))}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_what_nobody_used_for_long_is_removed(place: Place) -> None:
    """When something new is unpacked, with its locks; what was used lately stays."""
    store = place.store(DAYS)
    old, young = place.open(store, "old"), place.open(store, "young")
    for opened in (old, young):
        store.release(opened)
    place.age(old, 6)
    place.age(young, 4)
    new = place.open(store, "new")
    assert place.cached() == {young.digest, new.digest}
    assert not list(place.cache.glob(f".{old.digest}.*"))


def test_opening_counts_as_use(place: Place) -> None:
    """An archive that is opened again is young again."""
    store = place.store(DAYS)
    opened = place.open(store, "old")
    place.age(opened, 6)
    store.release(store.open(place.root / "old.mar"))
    store.release(opened)
    place.open(store, "new")
    assert opened.digest in place.cached()


def test_beyond_the_size_the_longest_unused_goes(place: Place) -> None:
    """The newest that fit together stay."""
    size = len(ECHO) + 500
    store = place.store(CacheBounds(max_bytes=2 * size))
    opened = [place.open(store, name) for name in ("a", "b")]
    for count, each in enumerate(opened):
        store.release(each)
        place.age(each, 2 - count)
    new = place.open(store, "c")
    assert place.cached() == {opened[1].digest, new.digest}


def test_0_days_is_no_limit(place: Place) -> None:
    """The size still is one."""
    store = place.store(CacheBounds(max_days=0))
    old = place.open(store, "old")
    store.release(old)
    place.age(old, 4000)
    place.open(store, "new")
    assert old.digest in place.cached()


def test_what_a_model_uses_stays(place: Place) -> None:
    """However old and large, until its last user lets go of it."""
    store = place.store(TINY)
    used = place.open(store, "used")
    again = store.open(place.root / "used.mar")
    store.release(again)
    place.age(used, 1000)
    other = place.open(store, "other")
    assert {used.digest, other.digest} <= place.cached()
    store.release(used)
    place.open(store, "third")
    assert used.digest not in place.cached()


HOLDER = """
import sys
from pathlib import Path
from flambeau.archive.store import ModelStore
store = ModelStore(Path(sys.argv[1]), Path(sys.argv[2]))
print(store.open(Path(sys.argv[3])).digest, flush=True)
sys.stdin.read()
"""


def test_what_another_process_uses_stays(place: Place) -> None:
    """Until it ends, in whatever way."""
    mar = make_mar(place.root, "theirs")
    command = [sys.executable, "-c", HOLDER, str(place.root), str(place.cache), str(mar)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        digest = holder.stdout.readline().strip()
        store = place.store(TINY)
        place.open(store, "mine")
        assert digest in place.cached()
        holder.kill()
    place.open(store, "more")
    assert digest not in place.cached()


def test_what_a_killed_process_left_is_removed(place: Place) -> None:
    """Half-unpacked and half-removed archives, of any digest."""
    (place.cache / ".aa.00ff.part" / "model").mkdir(parents=True)
    (place.cache / ".bb.gone.part").mkdir()
    opened = place.open(place.store(DAYS), "new")
    assert place.cached() == {opened.digest}


def test_a_served_model_keeps_its_files(place: Place) -> None:
    """A server whose cache is far too small serves on; an unregistered model's files go."""
    for name in ("one", "two", "three"):
        make_mar(place.root, name, f"{ECHO}\n# {name}\n")
    with running_server(place.root, place.cache, cache_max_bytes=1) as server:
        for name in ("one", "two"):
            assert register(server, f"{name}.mar").status_code == 200
        folders = place.cache / "archives"
        assert len([path for path in folders.iterdir() if path.name[0] != "."]) == 2
        assert httpx.delete(f"{server.management}/models/one").status_code == 200
        assert register(server, "three.mar").status_code == 200
        assert len([path for path in folders.iterdir() if path.name[0] != "."]) == 2
        scaled = {"min_worker": "2", "synchronous": "true"}
        url = f"{server.management}/models/two"
        assert httpx.put(url, params=scaled, timeout=60).status_code == 200
        assert predict(server, "two").status_code == 200
