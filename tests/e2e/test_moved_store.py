"""A store of archives moves from a running TorchServe 0.12 to Flambeau by TorchServe's own snapshot."""

import io
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flambeau.testing.echo import free_ports
from flambeau.testing.waiting import wait_until
from tests.e2e.peer import NEEDS_TORCHSERVE, VENV, answer_of
from tests.e2e.test_built_in_handlers import MODELS
from tests.e2e.test_stock_handler_served import STOCK, pack_stock

pytestmark = [
    *NEEDS_TORCHSERVE,
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]

TORCHSERVE = VENV / "bin" / "torchserve"
FLAMBEAU = Path(sys.executable).with_name("torchserve")

FUNCTION = """
def handle(data, context):
    if data is None:
        return None
    return ["{name} says " + (row.get("data") or row.get("body")) for row in data]
"""
CLASS = """
from ts.torch_handler.base_handler import BaseHandler

class Handler(BaseHandler):
    def initialize(self, context):
        self.name = "{name}"
        self.initialized = True

    def preprocess(self, data):
        return [row.get("data") or row.get("body") for row in data]

    def inference(self, data):
        return [self.name + " says " + text for text in data]

    def postprocess(self, data):
        return data
"""
PLAIN_CLASS = """
class Handler:
    def initialize(self, context):
        self.name = context.model_name

    def handle(self, data, context):
        return [self.name + " says " + row["body"] for row in data]
"""
EAGER = """
import torch
from ts.torch_handler.base_handler import BaseHandler

class Handler(BaseHandler):
    def preprocess(self, data):
        self.texts = [row["body"] for row in data]
        return torch.ones(len(data), 2)

    def postprocess(self, data):
        assert data.shape[1] == 3
        return [self.context.model_name + " says " + text for text in self.texts]
"""
MODEL = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 3)

    def forward(self, x):
        return self.linear(x)
"""
YAML_READER = """
class Handler:
    def initialize(self, context):
        self.word = context.model_yaml_config["handler"]["word"]
        self.name = context.model_name

    def handle(self, data, context):
        return [self.name + " " + self.word + " " + row["body"] for row in data]
"""
NEVER_READY = CLASS.replace("self.initialized = True", "raise RuntimeError('never ready')")
NEEDS_MUCH = "import no_such_library\n" + FUNCTION


class Archives:
    """Writes archives into a store."""

    def __init__(self, store: Path) -> None:
        self.store = store
        store.mkdir()

    def mar(
        self, name: str, source: str, handler: str = "", version: str = "1.0", **more: bytes | str
    ) -> None:
        """A `.mar` with one handler file; further files by name (`__` stands for a dot)."""
        with zipfile.ZipFile(self.store / f"{name}.mar", "w") as archive:
            for file, content in self._files(name, source, handler, version, more).items():
                archive.writestr(file, content)

    def tar(self, name: str, source: str, top: str) -> None:
        """A `.tar.gz` whose members lie below one folder."""
        with tarfile.open(self.store / f"{name}.tar.gz", "w:gz") as archive:
            for file, content in self._files(name, source, "", "1.0", {}).items():
                info = tarfile.TarInfo(f"{top}/{file}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))

    def folder(self, name: str, source: str) -> None:
        """A model that was never packed."""
        for file, content in self._files(name, source, "", "1.0", {}).items():
            path = self.store / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def _files(
        self, name: str, source: str, handler: str, version: str, more: dict[str, bytes | str]
    ) -> dict[str, bytes]:
        file = "".join(char if char.isalnum() else "_" for char in name) + "_handler.py"
        model = {"modelName": name, "modelVersion": version, "handler": handler or file}
        files = {key.replace("__", "."): value for key, value in more.items()}
        if "model.yaml" in files:
            model["configFile"] = "model.yaml"
        if "requirements.txt" in files:
            model["requirementsFile"] = "requirements.txt"
        if "weights.pt" in files:
            model["serializedFile"] = "weights.pt"
        if "net.py" in files:
            model["modelFile"] = "net.py"
        manifest = {"createdOn": "01/01/2022 10:00:00", "runtime": "python", "model": model}
        manifest["archiverVersion"] = "0.12.0"
        contents = {"MAR-INF/MANIFEST.json": json.dumps(manifest), file: source, **files}
        return {
            key: value.encode() if isinstance(value, str) else value
            for key, value in contents.items()
        }


def weights(scripted: bool) -> bytes:
    """A state dict of `Net`, or the whole of it as TorchScript."""
    import torch

    buffer = io.BytesIO()
    linear = torch.nn.Linear(2, 3)
    if scripted:
        torch.jit.save(torch.jit.trace(linear, torch.ones(1, 2)), buffer)  # type: ignore[no-untyped-call]  # torch has no types for it
    else:
        torch.save({f"linear.{key}": value for key, value in linear.state_dict().items()}, buffer)
    return buffer.getvalue()


def write_store(store: Path) -> list[str]:
    """At least twenty archives; returns the names of those that can answer."""
    archives = Archives(store)
    archives.mar("function", FUNCTION.format(name="function"))
    archives.mar("module", FUNCTION.format(name="module"), "module_handler")
    entry = FUNCTION.format(name="entry").replace("handle(", "run(")
    archives.mar("entry", entry, "entry_handler.py:run")
    archives.mar("bare", entry.replace("entry says", "bare says"), "bare_handler:run")
    archives.mar("class", CLASS.format(name="class"))
    archives.mar("plain", PLAIN_CLASS)
    archives.mar("eager", EAGER, net__py=MODEL, weights__pt=weights(scripted=False))
    archives.mar("scripted", EAGER, weights__pt=weights(scripted=True))
    settings = (
        "minWorkers: 1\nmaxWorkers: 2\nbatchSize: 4\nmaxBatchDelay: 5\nhandler:\n  word: says\n"
    )
    archives.mar("settings", YAML_READER, model__yaml=settings)
    archives.mar("requirements", FUNCTION.format(name="requirements"), requirements__txt="six\n")
    archives.tar("tarball", FUNCTION.format(name="tarball"), "tarball")
    archives.tar("nested", FUNCTION.format(name="nested"), "whatever")
    archives.folder("unpacked", FUNCTION.format(name="unpacked"))
    archives.mar("versions", FUNCTION.format(name="versions"))
    archives.mar("dotted.name-2", FUNCTION.format(name="dotted.name-2"))
    write_built_in(store)
    if STOCK.is_file():
        pack_stock(store.parent / "models", store, "text-classification", "auto")
    else:
        archives.mar("another", CLASS.format(name="another"))
    good = [path.name.removesuffix(".tar.gz").removesuffix(".mar") for path in store.iterdir()]
    archives.mar("never_ready", NEVER_READY.format(name="never_ready"))
    archives.mar("needs_much", NEEDS_MUCH.format(name="needs_much"))
    archives.mar("goes_away", FUNCTION.format(name="goes_away"))
    archives.mar("gets_broken", FUNCTION.format(name="gets_broken"))
    assert len(list(store.iterdir())) >= 20
    return good


def write_built_in(store: Path) -> None:
    """An archive that names a handler of TorchServe's own, and carries none."""
    handler, files, keys = MODELS["text_classifier"]
    model = {"modelName": "built_in", "modelVersion": "1.0", "handler": handler, **keys}
    with zipfile.ZipFile(store / "built_in.mar", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": model}))


class Running:
    """A `torchserve` in the foreground: TorchServe's or ours, in the same folder."""

    def __init__(self, command: Path, arguments: list[str], folder: Path, env: dict[str, str]):
        self.log = folder / f"console-{len(list(folder.glob('console-*')))}"
        self._command, self._folder, self._env = command, folder, env
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [str(command), "--start", "--foreground", *arguments],
                cwd=folder,
                env=env,
                stdout=output,
                stderr=output,
            )

    def stop(self) -> None:
        """End it as an operator does, and wait."""
        stop = [str(self._command), "--stop", "--foreground"]
        subprocess.run(stop, cwd=self._folder, env=self._env, check=True, timeout=120)
        self.process.wait(60)


@pytest.fixture
def moved(tmp_path: Path, peer_environment: dict[str, str]) -> Iterator[tuple[str, str, Running]]:
    """Inference and management address of a Flambeau that took over, and its process."""
    good = write_store(tmp_path / "store")
    ports = free_ports(5)
    inference, management, metrics = (f"http://127.0.0.1:{port}" for port in ports[:3])
    config = tmp_path / "settings.properties"
    config.write_text(
        f"inference_address={inference}\nmanagement_address={management}\n"
        f"metrics_address={metrics}\ngrpc_inference_port={ports[3]}\n"
        f"grpc_management_port={ports[4]}\nenable_model_api=true\ndisable_system_metrics=true\n"
        "disable_token_authorization=true\n"
    )
    store = ["--model-store", str(tmp_path / "store")]
    torchserve = Running(
        TORCHSERVE, [*store, "--ts-config", str(config)], tmp_path, peer_environment
    )
    try:
        wait_until(lambda: listens(management), 120)
        for path in sorted((tmp_path / "store").iterdir()):
            answer = httpx.post(f"{management}/models", params={"url": path.name}, timeout=60)
            assert answer.is_success, answer.text
        again = {"url": "function.mar", "model_name": "renamed"}
        assert httpx.post(f"{management}/models", params=again, timeout=60).is_success
        second = {"url": "versions2.mar"}
        write_second_version(tmp_path / "store")
        assert httpx.post(f"{management}/models", params=second, timeout=60).is_success
        default = f"{management}/models/versions/2.0/set-default"
        assert httpx.put(default, timeout=60).is_success
        httpx.put(f"{management}/models/function", params={"min_worker": 1}, timeout=60)
        assert answer_of(inference, "function", 120).text == "function says carry on"
        for name in [*good, "renamed", "never_ready", "needs_much"]:
            httpx.put(f"{management}/models/{name}", params={"min_worker": 1}, timeout=60)
    finally:
        torchserve.stop()
    (tmp_path / "store" / "goes_away.mar").unlink()
    (tmp_path / "store" / "gets_broken.mar").write_bytes(b"half a copy")
    environment = peer_environment | {"FLAMBEAU_CACHE": str(tmp_path / "cache")}
    flambeau = Running(FLAMBEAU, store, tmp_path, environment)
    try:
        wait_until(lambda: listens(management), 120)
        yield inference, management, flambeau
    finally:
        flambeau.stop()


def write_second_version(store: Path) -> None:
    elsewhere = Archives(store / ".second")
    elsewhere.mar("versions", FUNCTION.format(name="versions 2"), version="2.0")
    shutil.move(elsewhere.store / "versions.mar", store / "versions2.mar")
    elsewhere.store.rmdir()


def listens(management: str) -> bool:
    try:
        return httpx.get(f"{management}/models").is_success
    except httpx.TransportError:
        return False


def test_a_store_moves_by_torchserves_snapshot(moved: tuple[str, str, Running]) -> None:
    """Every good archive answers under its name, version and settings; wrong ones harm nobody."""
    inference, management, flambeau = moved
    listed = httpx.get(f"{management}/models", params={"limit": 100}).json()["models"]
    names = {each["modelName"] for each in listed}
    assert len(names) >= 19
    assert {"goes_away", "gets_broken"}.isdisjoint(names)
    assert answer_of(inference, "built_in", 60).json().keys() == {"yes", "no"}
    stock = "sequence_classification_auto"
    if stock in names:
        assert answer_of(inference, stock, 60).text in ("Accepted", "Not Accepted")
    for name in sorted(names - {"never_ready", "needs_much", "built_in", stock}):
        said = {"renamed": "function", "versions": "versions 2"}.get(name, name)
        assert answer_of(inference, name, 60).text == f"{said} says carry on"
    first = httpx.post(
        f"{inference}/predictions/versions/1.0",
        content="carry on",
        headers={"content-type": "text/plain"},
    )
    assert first.status_code == 503, "its version had no worker at TorchServe either"
    [settings] = httpx.get(f"{management}/models/settings").json()
    assert (settings["batchSize"], settings["maxBatchDelay"]) == (4, 5)
    for name, reason in (("never_ready", "never ready"), ("needs_much", "no_such_library")):
        answer = httpx.post(f"{inference}/predictions/{name}", content=b"x", timeout=60)
        assert answer.status_code == 503
        assert reason in answer.json()["message"]
    console = flambeau.log.read_text()
    assert "goes_away" in console
    assert "gets_broken" in console
