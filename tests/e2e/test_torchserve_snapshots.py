"""TorchServe 0.12 and Flambeau go on from each other's snapshots (run by `scripts/test` where Java is)."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from flambeau.config import load_config, read_properties
from flambeau.serving.snapshots import newest_snapshot
from flambeau.testing.echo import free_ports
from flambeau.testing.server import running_server
from flambeau.testing.waiting import wait_until

VENV = Path(os.environ.get("FLAMBEAU_TORCHSERVE_VENV") or "/nonexistent")

pytestmark = [
    pytest.mark.peer,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not (VENV / "bin" / "torchserve").exists(),
        reason="FLAMBEAU_TORCHSERVE_VENV names no environment with TorchServe (scripts/peer)",
    ),
]

HANDLER = """
def handle(data, context):
    return [context.manifest["model"]["modelVersion"] for _ in data or []]
"""


class Place:
    """A folder in which servers of both makes follow each other."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("tmp", "store"):
            (root / name).mkdir()
        for version in ("1.0", "2.0"):
            self._pack(version)
        self.ports = free_ports(5)
        keys = ("inference_address", "management_address", "metrics_address")
        lines = [f"{k}=http://127.0.0.1:{p}\n" for k, p in zip(keys, self.ports[:3], strict=True)]
        lines += [f"grpc_inference_port={self.ports[3]}\n"]
        lines += [f"grpc_management_port={self.ports[4]}\n"]
        lines += ["default_workers_per_model=1\ndisable_system_metrics=true\n", "preload=\n"]
        lines += ["enable_model_api=true\ndisable_token_authorization=true\n"]
        self.config = root / "config.properties"
        self.config.write_text("".join(lines))
        self.environment = os.environ | {
            "TMPDIR": str(root / "tmp"),
            "TEMP": str(root / "tmp"),
            "LOG_LOCATION": str(root / "logs"),
            "METRICS_LOCATION": str(root / "logs"),
            "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}",
        }

    def _pack(self, version: str) -> None:
        (self.root / "handler.py").write_text(HANDLER)
        archiver = str(Path(sys.executable).with_name("torch-model-archiver"))
        command = [archiver, "--model-name", "m", "--version", version, "--handler", "handler.py"]
        subprocess.run(
            [*command, "--export-path", "store"], cwd=self.root, check=True, capture_output=True
        )
        (self.root / "store" / "m.mar").rename(self.root / "store" / f"m-{version}.mar")

    @contextmanager
    def torchserve(self, config: Path) -> Iterator[None]:
        """A real TorchServe with that configuration file."""
        program = [str(VENV / "bin" / "torchserve")]
        # Its launcher and Java keep the streams open: they must not be pipes that we wait for.
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        start = [*program, "--start", "--model-store", "store", "--ts-config", str(config)]
        subprocess.run(start, cwd=self.root, env=self.environment, check=True, **quiet)  # type: ignore[call-overload]  # typeshed wants each spelled out
        try:
            yield
        finally:
            stop = [*program, "--stop", "--foreground"]
            subprocess.run(stop, cwd=self.root, env=self.environment, check=True, **quiet)  # type: ignore[call-overload]  # as above

    def manage(self, method: str, path: str, **query: str) -> httpx.Response:
        url = f"http://127.0.0.1:{self.ports[1]}/models{path}"
        answer = httpx.request(method, url, params=query, timeout=120)
        return answer.raise_for_status()

    def answers(self, path: str) -> str:
        """A prediction's text, "" while there is no server or no worker."""
        with suppress(httpx.TransportError):
            answer = httpx.post(f"http://127.0.0.1:{self.ports[0]}/predictions/{path}", timeout=60)
            return answer.text if answer.is_success else ""
        return ""

    def listening(self) -> bool:
        with suppress(httpx.TransportError):
            return self.manage("GET", "").is_success
        return False


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_flambeau_goes_on_from_torchserve_s_snapshot(place: Place) -> None:
    """Two versions, their default, workers and time-outs, read from the file that TorchServe wrote."""
    with place.torchserve(place.config):
        wait_until(place.listening, 120)
        place.manage("POST", "", url="m-1.0.mar", batch_size="3", max_batch_delay="20")
        query = {"initial_workers": "1", "response_timeout": "33"}
        place.manage("POST", "", url="m-2.0.mar", **query)
        place.manage("PUT", "/m/2.0/set-default")
    file, notes = newest_snapshot(place.root / "logs" / "config")
    assert file is not None
    assert notes == []
    assert read_properties(file, {})["version"] == "0.12.0"
    config = load_config(file, {}, {})
    with running_server(
        place.root / "store", place.root / "cache", model_snapshot=config.model_snapshot
    ) as server:
        predictions = f"{server.inference}/predictions/m"
        wait_until(lambda: httpx.post(predictions).status_code == 200)
        assert httpx.post(predictions).text == "2.0"
        first, second = httpx.get(f"{server.management}/models/m/all").json()
        assert (first["modelVersion"], first["batchSize"], first["maxBatchDelay"]) == ("1.0", 3, 20)
        assert (len(first["workers"]), second["responseTimeout"]) == (1, 33)


def test_torchserve_goes_on_from_flambeau_s_snapshot(place: Place) -> None:
    """With what is ours in it: checksum, extra keys, the handler given at registration."""
    names = ("inference_address", "management_address", "metrics_address")
    config = load_config(place.config, {}, {})
    addresses = {name: getattr(config, name) for name in names}
    with running_server(
        place.root / "store", place.root / "cache", log_location=place.root / "logs", **addresses,
        grpc_inference_port=place.ports[3], grpc_management_port=place.ports[4],
        disable_token_authorization=True, disable_system_metrics=True,
    ):  # fmt: skip
        place.manage("POST", "", url="m-1.0.mar", initial_workers="1", batch_size="2")
        query = {"initial_workers": "1", "handler": "handler.py:handle"}
        place.manage("POST", "", url="m-2.0.mar", **query)
        place.manage("PUT", "/m/2.0/set-default")
    file, _ = newest_snapshot(place.root / "logs" / "config")
    assert file is not None
    saved = json.loads(read_properties(file, {})["model_snapshot"])["models"]["m"]
    assert saved["2.0"]["handler"] == "handler.py:handle"
    with place.torchserve(file):
        wait_until(lambda: place.answers("m") == "2.0", 120)
        wait_until(lambda: place.answers("m/1.0") == "1.0")
        documents = place.manage("GET", "/m/all").json()
        sizes = {each["modelVersion"]: each["batchSize"] for each in documents}
        assert sizes == {"1.0": 2, "2.0": 1}
