"""Which configuration `torchserve` starts with: a file, a snapshot, or what the command line says."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flambeau.testing.commands import run_command
from flambeau.testing.echo import alive, free_ports, write_model
from flambeau.testing.waiting import wait_until


class Place:
    """A working directory of a server: store, log folder, pid file and ports of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("tmp", "store", "cache", "moved"):
            (root / name).mkdir(parents=True)
        for name in ("one", "two"):
            write_model(root / "store", name)
        self.environment = os.environ | {
            "TMPDIR": str(root / "tmp"),
            "FLAMBEAU_CACHE": str(root / "cache"),
            "LOG_LOCATION": str(root / "logs"),
        }

    def configure(self, name: str) -> int:
        """Write a configuration with ports of its own; returns the management port."""
        ports = free_ports(5)
        keys = ("inference_address", "management_address", "metrics_address")
        lines = [f"{k}=http://127.0.0.1:{p}\n" for k, p in zip(keys, ports[:3], strict=True)]
        lines += [f"grpc_inference_port={ports[3]}\n", f"grpc_management_port={ports[4]}\n"]
        lines += ["preload=\n", "enable_model_api=true\n", "disable_token_authorization=true\n"]
        (self.root / name).write_text("".join(lines))
        return ports[1]

    def run(self, *arguments: str) -> str:
        """Run the command to its end, which must be a good one."""
        command = [sys.executable, "-m", "flambeau.cli.torchserve", *arguments]
        done = run_command(command, self.root, self.environment)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def serves(self, port: int) -> list[str]:
        answer = httpx.get(f"http://127.0.0.1:{port}/models")
        return [each["modelName"] for each in answer.json()["models"]]

    def snapshots(self) -> list[Path]:
        return sorted((self.root / "logs" / "config").glob("*.cfg"))

    def logs(self, text: str) -> bool:
        """Wait until the log holds a text: a thread writes it."""
        wait_until(lambda: text in (self.root / "logs" / "ts_log.log").read_text())
        return True


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Whatever a test starts there is stopped at its end."""
    made = Place(tmp_path / "place")
    yield made
    made.run("--stop", "--foreground")


def test_a_start_without_configuration_goes_on_from_the_newest_snapshot(place: Place) -> None:
    """Ports and models come back; `config.properties` is not read, as in TorchServe, but that is told."""
    port = place.configure("first.properties")
    place.run("--ts-config", "first.properties", "--model-store", "store", "--models", "one")
    added = httpx.post(f"http://127.0.0.1:{port}/models?url=two")
    assert added.status_code == 200
    place.run("--stop", "--foreground")

    other = place.configure("config.properties")
    place.run("--start")
    assert place.serves(port) == ["one", "two"]
    assert place.logs(f"restored from the snapshot {place.root}/logs/config/")
    assert place.logs("config.properties is not read")
    place.run("--stop", "--foreground")

    # the store is elsewhere now, and one archive did not come along
    shutil.move(place.root / "store" / "two", place.root / "moved" / "two")
    place.run("--start", "--model-store", "moved")
    assert place.serves(port) == ["two"]
    place.run("--stop", "--foreground")

    before = place.snapshots()
    place.run("--start", "--ncs", "--model-store", "store")
    assert place.serves(other) == []
    place.run("--stop", "--foreground")
    assert place.snapshots() == before


def test_models_on_the_command_line_win_over_a_found_snapshot(place: Place) -> None:
    """TorchServe silently ignored them; a snapshot that is named still comes first there and here."""
    port = place.configure("config.properties")
    place.run("--model-store", "store", "--models", "one")
    place.run("--stop", "--foreground")
    place.run("--model-store", "store", "--models", "two")
    assert place.serves(port) == ["two"]
    assert place.logs("--models decides what is served; the snapshot")
    place.run("--stop", "--foreground")
    snapshot = str(place.snapshots()[-1])
    place.run("--ts-config", snapshot, "--models", "one")
    assert place.serves(port) == ["two"]
    assert place.logs("which is restored: --models is ignored")


def test_a_killed_server_goes_on_with_what_it_had_acknowledged(place: Place) -> None:
    """SIGKILL leaves no shutdown snapshot; that of the last change counts."""
    port = place.configure("first.properties")
    place.run("--ts-config", "first.properties", "--model-store", "store", "--models", "one")
    assert httpx.post(f"http://127.0.0.1:{port}/models?url=two").status_code == 200
    pid = int((place.root / "tmp" / ".model_server.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid))
    place.run("--start")
    assert place.serves(port) == ["one", "two"]


def test_kserve_s_configuration(place: Place) -> None:
    """`model_snapshot` in the file that KServe writes: one address for both APIs, models from it."""
    place.configure("config.properties")
    (port,) = free_ports(1)
    model = {"defaultVersion": True, "marName": "two", "minWorkers": 1, "maxWorkers": 5,
             "batchSize": 3, "maxBatchDelay": 10, "responseTimeout": 120}  # fmt: skip
    snapshot = {"name": "startup.cfg", "modelCount": 1, "models": {"renamed": {"1.0": model}}}
    with (place.root / "config.properties").open("a") as file:
        file.write(f"inference_address=http://127.0.0.1:{port}\n")
        file.write(f"management_address=http://127.0.0.1:{port}\n")
        file.write(f"model_snapshot={json.dumps(snapshot)}\n")
    place.run("--start", "--model-store", "store", "--ts-config", "config.properties")
    assert place.serves(port) == ["renamed"]
    url = f"http://127.0.0.1:{port}/predictions/renamed"
    wait_until(lambda: httpx.post(url).status_code == 200)
    (document,) = httpx.get(f"http://127.0.0.1:{port}/models/renamed").json()
    assert (document["maxWorkers"], document["batchSize"]) == (5, 3)
