"""The front-end processes of a server with `http_workers`."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from flambeau.testing.echo import children, free_ports, write_model

TWO = 2


def front_ends(parent: int | None = None, *, but: Collection[int] = ()) -> list[int]:
    """Front-end processes below a process that are alive, without those of other servers."""
    found = []
    for pid in children(parent or os.getpid()) - set(but):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            continue
        if "flambeau.frontend.process" in command:
            found.append(pid)
    return found


@contextlib.contextmanager
def foreground_server(
    folder: Path, *properties: str
) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """A `torchserve` that begins to serve `echo`, to be told to stop; and its three ports."""
    write_model(folder / "store", "echo")
    ports = free_ports(3)
    keys = ("inference_address", "management_address", "metrics_address")
    lines = [f"{key}=http://127.0.0.1:{port}" for key, port in zip(keys, ports, strict=True)]
    (folder / "config.properties").write_text("\n".join([*lines, "preload=", *properties, ""]))
    (folder / "tmp").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "flambeau.cli.torchserve", "--start", "--foreground", "--ncs",
         "--model-store", "store", "--models", "echo", "--disable-token-auth"],
        cwd=folder,
        env=os.environ | {"TMPDIR": str(folder / "tmp"), "TEMP": str(folder / "tmp")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process, ports
    finally:
        process.kill()
        process.wait()
