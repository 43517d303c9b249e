"""T19: power cuts after every call of whoever writes snapshots and keys, and real SIGKILLs.

After each, what a start would read is the old generation or the new one, never a mix; and once a
write has returned, the new one.
"""

import asyncio
import contextlib
import json
import os
import random
import select
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from flambeau.archive.staging import stage_path
from flambeau.archive.store import ModelStore
from flambeau.config import ServerConfig, load_config
from flambeau.serving import snapshots, tokens
from flambeau.serving.snapshots import (
    SavedModel,
    SavedState,
    Snapshots,
    newest_snapshot,
    read_state,
)
from flambeau.serving.tokens import Tokens
from flambeau.types import ModelKey
from tests.trust.disks import after_power_loss, read_disk, recorded, write_disk
from tests.trust.mars import write_mar
from tests.trust.suite import Figures, Limit, Run, Suite

_MODELS = 40
_MODES = ("all", "data-lost", "names-lost", "torn", "torn", "torn")


def run(run: Run) -> Figures:
    """Cut the power at every point, then kill a process that writes without end."""
    choose = run.random()
    points = bad = 0
    for writer, reader in ((_save, _generation), (_renew, _key_file)):
        for generation in range(1, run.amount(3, 12) + 1):
            cuts, wrong = _cut_everywhere(run.folder, writer, reader, generation, choose)
            points, bad = points + cuts, bad + wrong
    kills, restored_badly = _kill_often(run, choose)
    return {"points": points, "bad": bad, "kills": kills, "bad_restores": restored_badly}


def _cut_everywhere(
    root: Path,
    write: Callable[[Path, int], None],
    read: Callable[[Path], object],
    generation: int,
    choose: random.Random,
) -> tuple[int, int]:
    """Points, and how many of them left something else than the old or the new generation."""
    work, after = root / "work", root / "after"
    write_disk(work, {})
    for earlier in range(generation):
        write(work, earlier)
    before, old = read_disk(work), read(work)
    with recorded(work) as steps:
        write(work, generation)
    new = read(work)
    assert old != new, "the writer writes nothing that its reader sees"
    points = bad = 0
    for count in range(len(steps) + 1):
        for mode in _MODES:
            write_disk(after, after_power_loss(before, steps[:count], choose, mode))
            allowed = (new,) if count == len(steps) else (old, new)
            points += 1
            try:
                bad += read(after) not in allowed
            except Exception:  # noqa: BLE001  # whatever it is, a start must not meet it
                bad += 1
    return points, bad


def _config(folder: Path) -> ServerConfig:
    return ServerConfig(model_store=folder, cache_dir=folder, snapshots_kept=3)


def _save(folder: Path, generation: int) -> None:
    """Write one snapshot: every model of it has `generation` workers."""
    saved = SavedModel(
        default_version=True,
        mar_name=f"m-{generation}.mar",
        min_workers=generation,
        max_workers=generation,
        batch_size=1,
        max_batch_delay=100,
        sha256=f"{generation:064x}",
    )
    models = {ModelKey(f"model-{number}", "1.0"): saved for number in range(_MODELS)}
    writer = Snapshots(folder / "config", _config(folder))
    assert asyncio.run(writer.save("snapshot", lambda: SavedState(models, {})))


def _generation(folder: Path) -> object:
    """Which generation a start restores; raises where it is a mix. None: no snapshot at all."""
    file, _ = newest_snapshot(folder / "config")
    if file is None:
        return None
    state = read_state(load_config(file, {}, {}).model_snapshot or {})
    (generation,) = {saved.min_workers for saved in state.models.values()}
    assert len(state.models) == _MODELS, "some models are missing"
    return generation


def _renew(folder: Path, _generation: int) -> None:
    """Write the key file anew, with other keys."""
    Tokens(folder / "key_file.json", 60)


def _key_file(folder: Path) -> object:
    """The keys that are in the file, all three."""
    document = json.loads((folder / "key_file.json").read_bytes())
    return tuple(document[scope]["key"] for scope in ("management", "inference", "API"))


def _kill_often(run: Run, choose: random.Random) -> tuple[int, int]:
    """SIGKILL a process at any moment in which it writes; returns kills, and bad ends of them."""
    folder = run.folder / "killed"
    folder.mkdir()
    archives = [write_mar(folder / f"m{number}.mar", str(number)) for number in range(3)]
    kills, bad, told = run.amount(60, 600), 0, -1
    for _ in range(kills):
        told = max(told, _write_until_killed(folder, archives, told + 1, choose.uniform(0, 0.08)))
        try:
            bad += not _all_whole(folder, archives, told)
        except Exception:  # noqa: BLE001  # what cannot be read is no generation
            bad += 1
    return kills, bad


def _write_until_killed(folder: Path, archives: list[Path], first: int, seconds: float) -> int:
    """The last generation of which the child said that it was on the disk; -1 for none."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.close(reading)
            _write_forever(folder, archives, first, writing)
        os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        select.select([pipe], [], [], 10)  # it has begun: the first byte says so
        select.select([], [], [], seconds)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        lines = pipe.read().split(b"\n")
    return max((int(line) for line in lines[:-1] if line), default=-1)


def _write_forever(folder: Path, archives: list[Path], first: int, told: int) -> None:
    os.write(told, b"\n")
    generation = first
    while True:
        _save(folder, generation)
        os.write(told, b"%d\n" % generation)
        _renew(folder, generation)
        cache = folder / "cache" / str(generation % 5)
        ModelStore(folder, cache).open(archives[generation % len(archives)])
        generation += 1


def _all_whole(folder: Path, archives: list[Path], told: int) -> bool:
    """Whether everything that was written can be read, and nothing that was told is lost."""
    with contextlib.suppress(FileNotFoundError):
        _key_file(folder)
    generation = _generation(folder)
    if (generation if isinstance(generation, int) else -1) < told:
        return False
    for number, archive in enumerate(archives):
        opened = ModelStore(folder, folder / "cache" / str(number)).open(archive)
        if (opened.model_dir / "weights.bin").read_bytes() != str(number).encode() * 100_000:
            return False
    return True


def _write_with(staged: Callable[..., contextlib.AbstractContextManager[BinaryIO]]) -> None:
    for module in (snapshots, tokens):
        setattr(module, "staged_file", staged)  # noqa: B010  # imported there, not exported


def _no_fsync() -> None:
    """Rename files that were not flushed."""

    @contextlib.contextmanager
    def staged(target: Path, *, private: bool = False) -> Iterator[BinaryIO]:
        stage = stage_path(target)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(stage, flags, 0o600 if private else 0o666), "wb") as file:
            yield file
        stage.replace(target)

    _write_with(staged)


def _write_in_place() -> None:
    """Write into the file itself, and flush it well."""

    @contextlib.contextmanager
    def staged(target: Path, *, private: bool = False) -> Iterator[BinaryIO]:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
        with os.fdopen(os.open(target, flags, 0o600 if private else 0o666), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        folder = os.open(target.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    _write_with(staged)


def _no_checksum() -> None:
    """Take the newest file, whole or not, as TorchServe does."""
    setattr(snapshots, "_check_whole", lambda _file: None)  # noqa: B010  # another name
    _write_in_place()


SUITE = Suite(
    name="t19",
    title="crash points",
    promises=("G12",),
    limits=(
        Limit("points", low=200),
        Limit("bad", exactly=0),
        Limit("kills", low=50),
        Limit("bad_restores", exactly=0),
    ),
    controls={
        "no-fsync": _no_fsync,
        "write-in-place": _write_in_place,
        "no-checksum": _no_checksum,
    },
    run=run,
)
