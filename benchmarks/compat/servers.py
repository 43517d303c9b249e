"""Both servers as child processes, with the same command line, configuration and model store."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx

from flambeau.testing.echo import free_ports

START_SECONDS = 120.0
POLL_SECONDS = 0.2


class Server(NamedTuple):
    """Addresses of a running server, and its working directory (where `key_file.json` is)."""

    name: str
    inference: str
    management: str
    metrics: str
    folder: Path

    def url(self, port: str) -> str:
        """The base address of `inference`, `management` or `metrics`."""
        return str(getattr(self, port))


@contextlib.contextmanager
def running(
    name: str, command: Path, store: Path, folder: Path, *, tokens: bool, models: int
) -> Iterator[Server]:
    """Run `command` (a `torchserve`) on a copy of the store until the block ends."""
    folder.mkdir(parents=True)
    temporary = folder / "tmp"
    temporary.mkdir()
    ports = free_ports(5)
    bases = [f"http://127.0.0.1:{port}" for port in ports]
    config = folder / "settings.properties"
    config.write_text(
        f"inference_address={bases[0]}\nmanagement_address={bases[1]}\nmetrics_address={bases[2]}\n"
        f"grpc_inference_port={ports[3]}\ngrpc_management_port={ports[4]}\n"
        "default_workers_per_model=1\ndisable_system_metrics=true\nenable_model_api=true\n"
        "metrics_mode=prometheus\nmodel_metrics_auto_detect=true\njob_queue_size=20\n"
    )
    environment = os.environ | {
        "TMPDIR": str(temporary),
        "TEMP": str(temporary),
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "FLAMBEAU_CACHE": str(folder / "cache"),
        "LOG_LOCATION": str(folder / "logs"),
        "METRICS_LOCATION": str(folder / "logs"),
    }
    arguments = [str(command), "--start", "--foreground", "--ncs", "--ts-config", str(config)]
    arguments += ["--model-store", str(store), "--models", "all"]
    arguments += [] if tokens else ["--disable-token-auth"]
    with (folder / "console.log").open("w") as console:
        process = subprocess.Popen(
            arguments,
            cwd=folder,
            env=environment,
            stdout=console,
            stderr=console,
            start_new_session=True,  # TorchServe's launcher and its Java process end together
        )
        try:
            server = Server(name, *bases[:3], folder)
            _wait_until_ready(server, process, models, tokens=tokens)
            yield server
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


def _wait_until_ready(
    server: Server, process: subprocess.Popen[bytes], models: int, *, tokens: bool
) -> None:
    """Wait until every start-up model has a worker that is READY (tokens: until it listens)."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"{server.name} ended: see {server.folder / 'console.log'}")
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.get(f"{server.management}/models")
            if tokens or ready_models(server) >= models == len(answer.json()["models"]):
                return
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"{server.name} was not ready: see {server.folder / 'console.log'}")


def ready_models(server: Server) -> int:
    """How many of the registered names have a worker that is READY."""
    names = [
        each["modelName"] for each in httpx.get(f"{server.management}/models").json()["models"]
    ]
    documents = [httpx.get(f"{server.management}/models/{name}").json()[0] for name in names]
    return sum(
        any(worker["status"] == "READY" for worker in document["workers"]) for document in documents
    )
