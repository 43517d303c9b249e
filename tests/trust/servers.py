"""Real servers for the suites: the `torchserve` command in a process of its own, and its /proc."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import msgspec
import psutil

from flambeau.testing.echo import ECHO, free_ports, write_model
from flambeau.testing.waiting import wait_until
from tests.trust.suite import Run

_ROOT = Path(__file__).parents[2]
STUB = ECHO
"""Source of the stub model's handler: it does what the header `x-do` says (`flambeau.testing.echo`)."""


class Census(msgspec.Struct, frozen=True):
    """What a server and its descendants hold, as /proc tells."""

    rss: int
    descriptors: int
    threads: int
    children: int


class TrustServer(msgspec.Struct, frozen=True):
    """A server that runs: its base addresses, its process, its folder and the file of its output."""

    inference: str
    management: str
    metrics: str
    process: subprocess.Popen[bytes]
    folder: Path
    log: Path

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self.process.pid

    def descendants(self) -> list[psutil.Process]:
        """Zygote, templates and workers, whose parents are the zygote or a template."""
        return psutil.Process(self.pid).children(recursive=True)

    def workers(self, model: str, version: str | None = None) -> list[int]:
        """Process ids of a model's workers, as the management API tells."""
        path = f"/models/{model}" + (f"/{version}" if version else "")
        described = httpx.get(self.management + path, timeout=30).json()
        return [each["pid"] for each in described[0]["workers"] if each["pid"] > 0]

    def census(self) -> Census:
        """The server process's memory in bytes, descriptors and threads, and all descendants."""
        process = psutil.Process(self.pid)
        return Census(
            process.memory_info().rss,
            process.num_fds(),
            process.num_threads(),
            len(self.descendants()),
        )

    def alive(self, model: str = "stub") -> bool:
        """Whether the server runs and answers a known good request, as each case has to end."""
        if self.process.poll() is not None:
            return False
        with contextlib.suppress(httpx.HTTPError):
            done = httpx.post(f"{self.inference}/predictions/{model}", content=b"well", timeout=30)
            return done.status_code == 200
        return False

    def stop(self, seconds: float = 60) -> int:
        """SIGTERM, and wait; returns the exit code. Raises `TimeoutExpired`."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


@contextlib.contextmanager
def trust_server(
    run: Run,
    models: Mapping[str, int] | None = None,
    *,
    properties: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
    name: str = "server",
    source: str = STUB,
    command: tuple[str, ...] = (),
    snapshots: bool = False,
) -> Iterator[TrustServer]:
    """Start a server with stub models, as many workers each as `models` says; stop it at the end.

    By default the model `stub` with one worker, no tokens, the model API on and nothing preloaded,
    so that a start takes a second. `properties` are lines of config.properties, which win; `source`
    is the models' handler; `command` are more arguments of `torchserve`. Only with `snapshots` are there
    any. A flaw of the run is in force in the server.
    """
    folder = run.folder / name
    store = folder / "store"
    store.mkdir(parents=True, exist_ok=True)
    wanted = {"stub": 1} if models is None else models
    for model in wanted:
        if not (store / model).exists():
            write_model(store, model, source)
    inference, management, metrics = free_ports(3)
    lines: dict[str, object] = {
        "inference_address": f"http://127.0.0.1:{inference}",
        "management_address": f"http://127.0.0.1:{management}",
        "metrics_address": f"http://127.0.0.1:{metrics}",
        "metrics_mode": "prometheus",
        "preload": "",
        "enable_model_api": "true",
        "disable_token_authorization": "true",
        "disable_system_metrics": "true",
        "models": json.dumps(
            {
                each: {"1.0": {"minWorkers": count, "maxWorkers": count}}
                for each, count in wanted.items()
            }
        ),
    }
    lines |= {"load_models": ",".join(wanted)} if wanted else {}
    lines |= properties or {}
    config = folder / "config.properties"
    config.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
    told = {"TMPDIR": str(folder), "FLAMBEAU_CACHE": str(folder / "cache")}
    log = folder / "output.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.trust.flawed", "--start", "--foreground",
             "--model-store", str(store), "--ts-config", str(config),
             *(() if snapshots else ("--ncs",)), *command],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            env={**os.environ, "PYTHONPATH": str(_ROOT), **told, **(environment or {})},
        )  # fmt: skip
    server = TrustServer(
        f"http://127.0.0.1:{inference}", f"http://127.0.0.1:{management}",
        f"http://127.0.0.1:{metrics}", process, folder, log,
    )  # fmt: skip
    try:
        _wait_started(server, wanted)
        yield server
    finally:
        end(server)


def end(server: TrustServer) -> None:
    """Stop a server whatever its state, and leave no process of it."""
    left: list[psutil.Process] = []
    try:
        left = server.descendants() if server.process.poll() is None else []
        server.stop(40)
    except (subprocess.TimeoutExpired, psutil.NoSuchProcess):
        server.process.kill()
        server.process.wait()
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _wait_started(server: TrustServer, models: Mapping[str, int]) -> None:
    def ready() -> bool:
        if server.process.poll() is not None:
            raise RuntimeError(f"the server ended: {server.log.read_text()[-3000:]}")
        try:
            httpx.get(server.inference + "/ping", timeout=5)
            return all(len(server.workers(model)) >= count for model, count in models.items())
        except (httpx.HTTPError, KeyError, ValueError, IndexError):
            return False

    wait_until(ready, 60)


def monotonic_ms() -> float:
    """Milliseconds on the monotonic clock."""
    return time.monotonic() * 1000
