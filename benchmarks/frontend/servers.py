"""A server with an echo model as a child process, and the CPU time that its processes have used."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx

from flambeau.testing.echo import free_ports, write_model

START_SECONDS = 60.0
POLL_SECONDS = 0.05
FRONT_END = "flambeau.frontend.process"
"""How the command line of a further front-end process is known."""

ECHO = """
def handle(data, context):
    return None if data is None else [row.get("body") for row in data]
"""
TICKS = os.sysconf("SC_CLK_TCK")


class Variant(NamedTuple):
    """What is compared: a configuration, and the sources ("" for those that run this)."""

    label: str
    settings: str = ""
    source: str = ""
    batch_size: int = 1


class Server(NamedTuple):
    """A running server: its process, and the address of the echo model."""

    pid: int
    url: str

    def core_seconds(self) -> float:
        """CPU time of the server process so far."""
        return cpu_seconds(self.pid)

    def front_end_seconds(self) -> float:
        """CPU time of its further front-end processes so far."""
        return sum(cpu_seconds(pid) for pid in front_ends(self.pid))


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, without its children's."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def front_ends(parent: int) -> list[int]:
    """Children of a server that terminate HTTP for it."""
    tasks = Path(f"/proc/{parent}/task").glob("*/children")
    pids = [int(pid) for file in tasks for pid in file.read_text().split()]
    return [pid for pid in pids if FRONT_END in Path(f"/proc/{pid}/cmdline").read_text()]


@contextlib.contextmanager
def running(variant: Variant, folder: Path) -> Iterator[Server]:
    """Run a server with its default logs and metrics until the block ends."""
    store = folder / "store"
    store.mkdir(parents=True)
    write_model(store, "echo", ECHO, batchSize=variant.batch_size)
    (folder / "tmp").mkdir()
    bases = [f"http://127.0.0.1:{port}" for port in free_ports(3)]
    keys = ("inference_address", "management_address", "metrics_address")
    config = folder / "config.properties"
    lines = [f"{key}={base}" for key, base in zip(keys, bases, strict=True)]
    config.write_text("\n".join([*lines, "preload=", variant.settings, ""]))
    environment = os.environ | {
        "TMPDIR": str(folder / "tmp"),
        "TEMP": str(folder / "tmp"),
        "LOG_LOCATION": str(folder / "logs"),
        "METRICS_LOCATION": str(folder / "logs"),
    }
    if variant.source:
        environment["PYTHONPATH"] = variant.source
    command = [sys.executable, "-m", "flambeau.cli.torchserve", "--start", "--foreground", "--ncs"]
    command += ["--ts-config", str(config), "--model-store", str(store), "--models", "echo"]
    with (folder / "console.log").open("w") as console:
        process = subprocess.Popen(
            [*command, "--disable-token-auth"], cwd=folder, env=environment, stdout=console,
            stderr=console,
        )  # fmt: skip
        try:
            url = f"{bases[0]}/predictions/echo"
            _wait_until_ready(url, process, folder)
            yield Server(process.pid, url)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], folder: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.post(url, content="ready?").status_code == 200:
                return
        time.sleep(POLL_SECONDS)
    raise RuntimeError(f"The server does not answer: see {folder / 'console.log'}")
