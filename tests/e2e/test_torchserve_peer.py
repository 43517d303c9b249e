"""TorchServe 0.12 and Flambeau serve each other's archives (run by `scripts/test` where Java is)."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flambeau.archive.yaml_config import read_yaml
from flambeau.telemetry.metrics_config import DEFAULT_FILE, parse_metrics_config
from flambeau.testing.echo import free_ports
from flambeau.testing.server import running_server
from tests.e2e.peer import NEEDS_TORCHSERVE, VENV, answer_of
from tests.telemetry.metric_models import shape

pytestmark = NEEDS_TORCHSERVE

HANDLER = '''
import json
import os

from ts.torch_handler.base_handler import BaseHandler


class Shouter(BaseHandler):
    """Answers with the text in capitals, and with a file of the archive."""

    def initialize(self, context):
        with open(os.path.join(context.system_properties["model_dir"], "greeting.txt")) as file:
            self.greeting = file.read().strip()
        self.suffix = context.model_yaml_config["handler"]["suffix"]
        self.initialized = True

    def handle(self, data, context):
        texts = [row.get("data") or row.get("body") for row in data]
        texts = [text if isinstance(text, str) else bytes(text).decode() for text in texts]
        return [{"greeting": self.greeting, "text": text.upper() + self.suffix} for text in texts]
'''
FORMATS = {"mar": "default", "stored": "zip-store", "tgz": "tgz", "folder": "no-archive"}


def archive_all(
    archiver: list[str], sources: Path, store: Path, environment: dict[str, str]
) -> None:
    """Pack the handler in every format with one archiver command."""
    (sources / "shouter.py").write_text(HANDLER)
    (sources / "greeting.txt").write_text("hello\n")
    (sources / "config.yaml").write_text("minWorkers: 1\nmaxWorkers: 1\nhandler:\n  suffix: '!'\n")
    for name, archive_format in FORMATS.items():
        command = [*archiver, "--model-name", name, "--version", "1.0", "--handler", "shouter.py"]
        command += ["--extra-files", "greeting.txt", "--config-file", "config.yaml"]
        command += ["--export-path", str(store), "--archive-format", archive_format]
        subprocess.run(command, cwd=sources, env=environment, check=True, capture_output=True)


def expected(text: str) -> dict[str, str]:
    return {"greeting": "hello", "text": f"{text.upper()}!"}


@pytest.fixture
def torchserve(tmp_path: Path, peer_environment: dict[str, str]) -> Iterator[str]:
    """The inference address of a real TorchServe that serves `tmp_path/store`."""
    ports = free_ports(5)
    config = tmp_path / "config.properties"
    config.write_text(
        f"inference_address=http://127.0.0.1:{ports[0]}\n"
        f"management_address=http://127.0.0.1:{ports[1]}\n"
        f"metrics_address=http://127.0.0.1:{ports[2]}\n"
        f"grpc_inference_port={ports[3]}\ngrpc_management_port={ports[4]}\n"
        "default_workers_per_model=1\ndisable_system_metrics=true\n"
    )
    command = [str(VENV / "bin" / "torchserve"), "--start", "--ncs", "--disable-token-auth"]
    command += ["--model-store", str(tmp_path / "store"), "--models", "all"]
    command += ["--ts-config", str(config)]
    # Its launcher and Java keep the streams open: they must not be pipes that we wait for.
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(command, cwd=tmp_path, env=peer_environment, check=True, **quiet)  # type: ignore[call-overload]  # typeshed wants each spelled out
    try:
        yield f"http://127.0.0.1:{ports[0]}"
    finally:
        stop = [str(VENV / "bin" / "torchserve"), "--stop", "--foreground"]
        subprocess.run(stop, cwd=tmp_path, env=peer_environment, check=True, **quiet)  # type: ignore[call-overload]  # as above


def test_torchserve_serves_archives_that_were_packed_here(
    tmp_path: Path, peer_environment: dict[str, str], request: pytest.FixtureRequest
) -> None:
    """Each format that our archiver writes is loaded and answered by TorchServe 0.12.

    Its metric lines while it does so are those that our built-in metrics.yaml declares.
    """
    store = tmp_path / "store"
    store.mkdir()
    archive_all(
        [str(Path(sys.executable).with_name("torch-model-archiver"))],
        tmp_path,
        store,
        dict(os.environ),
    )
    url = request.getfixturevalue("torchserve")
    for name in FORMATS:
        assert json.loads(answer_of(url, name, 120).text) == expected("carry on")
    declared = parse_metrics_config(read_yaml(DEFAULT_FILE), DEFAULT_FILE)
    for log, specs in (("ts_metrics", declared.ts), ("model_metrics", declared.model)):
        of_model = log == "model_metrics"
        shapes = {shape(line) for line in lines(tmp_path / "logs" / f"{log}.log")}
        assert {name for name, *_ in shapes} >= ({"PredictionTime"} if of_model else {"QueueTime"})
        for name, unit, dimensions, names_requests in shapes:
            own = specs[name].dimensions if of_model else specs[name].dimensions[:-1]
            assert (unit, dimensions, names_requests) == (specs[name].unit, own, of_model)


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines()


def test_flambeau_serves_archives_that_torchserve_packed(
    tmp_path: Path, peer_environment: dict[str, str]
) -> None:
    """Each format that TorchServe's archiver writes is loaded and answered here."""
    store = tmp_path / "store"
    store.mkdir()
    archiver = str(VENV / "bin" / "torch-model-archiver")
    archive_all([archiver], tmp_path, store, peer_environment)
    with running_server(store, tmp_path / "cache", load_models=("all",)) as server:
        for name in FORMATS:
            assert answer_of(server.inference, name, 60).json() == expected("carry on")
