"""Archives that are being copied into a store, and files that are none, on a running server."""

import io
import random
import threading
import time
import zipfile
from pathlib import Path

import httpx
import psutil

from flambeau.testing.echo import write_model
from tests.trust.mars import write_mar
from tests.trust.servers import TrustServer, trust_server
from tests.trust.suite import Figures, Run

_SECONDS = 2.0
"""How long a refusal may take (promises.md G11)."""


def half_copied(run: Run) -> Figures:
    """Register what is no whole archive: counts those that were accepted, refused late or unclearly."""
    store = run.folder / "copies" / "store"
    write_model(store, "stub")
    whole = _nesting(run.folder).read_bytes()
    (store / "at-start.mar").write_bytes(whole[: len(whole) // 2])
    with trust_server(run, name="copies", command=("--models", "all")) as server:
        cases = _cases(whole, run.random(), run.amount(25, 300))
        rss = psutil.Process(server.pid).memory_info().rss
        listed = sorted(path.name for path in store.iterdir())
        bad = sum(not _refused(server, store, data) for data in cases)
        bad += sorted(path.name for path in store.iterdir()) != listed
        bad += _names(server) != ["stub"]
        grown = psutil.Process(server.pid).memory_info().rss - rss
        bad += _while_copying(server, store, whole)
        (store / "at-start.mar").write_bytes(whole)
        bad += _register(server, "at-start.mar").status_code != 409  # the same model
        left = list((server.folder / "cache").rglob("*.part"))
        alive = server.alive()
    return {
        "half_copied": len(cases),
        "half_copied_bad": bad + len(left) + (not alive),
        "half_copied_mb": grown / 1e6,
    }


def _nesting(folder: Path) -> Path:
    """An archive that holds another one as it is: cut behind that, it ends as an archive does."""
    inner = write_mar(folder / "inner.mar", "inner")
    outer = write_mar(folder / "outer.mar", "outer")
    with zipfile.ZipFile(outer, "a") as archive:
        archive.write(inner, "inner.mar")
        archive.writestr("more.bin", b"more" * 10_000)
    return outer


def _cases(whole: bytes, choose: random.Random, count: int) -> list[bytes]:
    cuts = [0, 1, 21, 22, len(whole) - 1, len(whole) - 22, len(whole) // 2, _end_of_inner(whole)]
    cuts += [choose.randrange(len(whole)) for _ in range(count)]
    directory = whole.rindex(b"PK\x01\x02")
    cases = [
        *(whole[:cut] for cut in cuts),
        *(whole[:cut] + bytes(len(whole) - cut) for cut in cuts[:-count]),  # room made ahead
        *(
            bytes(cut) + whole[cut:] for cut in (4096, directory)
        ),  # from the end, as by several at once
        b"",
        b"no archive",
        b"\x1f\x8b" + choose.randbytes(5000),
        b"PK\x03\x04" + choose.randbytes(5000),
        choose.randbytes(5000),
    ]
    return [case for case in cases if case != whole]  # its last bytes are zeros as they are


def _end_of_inner(whole: bytes) -> int:
    """The offset behind the archive within the archive."""
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        inner = archive.getinfo("inner.mar")
        return whole.index(b"inner.mar", inner.header_offset) + len("inner.mar") + inner.file_size


def _refused(server: TrustServer, store: Path, data: bytes) -> bool:
    """Whether it is answered with a client's error that says why, in time."""
    file = store / "case.mar"
    file.write_bytes(data)
    begin = time.monotonic()
    done = _register(server, "case.mar")
    in_time = time.monotonic() - begin <= _SECONDS
    file.unlink()
    good = 400 <= done.status_code < 500 and "case.mar: " in done.json()["message"]
    if not good or not in_time:
        print(len(data), done.status_code, done.text, flush=True)
    return good and in_time


def _while_copying(server: TrustServer, store: Path, whole: bytes) -> int:
    """Register while a slow copy goes on: 0 if that works when it is complete, and never before."""
    file = store / "slow.mar"
    complete = threading.Event()
    pause = threading.Event()

    def copy() -> None:
        with file.open("wb", buffering=0) as output:
            size = len(whole) // 12 + 1
            for start in range(0, len(whole), size):
                if start + size >= len(whole):
                    complete.set()  # before the last piece: whoever sees all of it, sees this
                output.write(whole[start : start + size])
                pause.wait(0.05)

    copying = threading.Thread(target=copy)
    copying.start()
    try:
        while True:
            status = _register(server, "slow.mar").status_code
            if status == 200:
                return int(not complete.is_set() or _names(server) != ["outer", "stub"])
            if not 400 <= status < 500:
                return 1
            if not copying.is_alive():
                return int(_register(server, "slow.mar").status_code != 200)
    finally:
        copying.join()


def _register(server: TrustServer, file: str) -> httpx.Response:
    query = {"url": file, "initial_workers": "1"}
    return httpx.post(f"{server.management}/models", params=query, timeout=30)


def _names(server: TrustServer) -> list[str]:
    models = httpx.get(f"{server.management}/models").json()["models"]
    return sorted(model["modelName"] for model in models)
