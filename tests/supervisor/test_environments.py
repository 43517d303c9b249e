"""Models with packages of their own (contract.md section 4.6): wheels in archives, no network."""

import fcntl
import json
import logging
import socket
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flambeau.supervisor.environments import _digest
from flambeau.testing.echo import predict, register, worker_pids, write_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until

# httptools is a package of the server's, of another version
HANDLER = """
import os, sys
import httptools, msgspec

def handle(data, context):
    version = getattr(httptools, "VERSION", "other")
    return [f"{version} {sys.prefix}"] * len(data or [])
"""


def write_wheel(folder: Path, version: str) -> str:
    """A wheel of `httptools` with nothing in it but its version; returns its name."""
    name = f"httptools-{version}-py3-none-any.whl"
    info = f"httptools-{version}.dist-info"
    files = {
        "httptools.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: httptools\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / name, "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)
    return name


def write_needy(
    store: Path, name: str, requirements: str = "", wheel: str = "", **yaml: object
) -> None:
    """A model folder with a requirements file, and perhaps a wheel that it names."""
    folder = write_model(store, name, HANDLER, "1.0", **yaml)
    if wheel:
        requirements = f"--no-index\n./{write_wheel(folder, wheel)}\n"
    (folder / "requirements.txt").write_text(requirements)
    file = folder / "MAR-INF" / "MANIFEST.json"
    manifest = json.loads(file.read_text())
    manifest["model"]["requirementsFile"] = "requirements.txt"
    file.write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    store = tmp_path_factory.mktemp("store")
    write_model(store, "plain", HANDLER)
    write_needy(store, "new", wheel="99.0")
    write_needy(store, "old", wheel="0.0.1", useVenv=True)
    write_needy(store, "missing", "--no-index\nno-such-package==1.0\n")
    write_model(store, "empty", HANDLER, useVenv=True)
    cache = tmp_path_factory.mktemp("cache")
    settings = {"install_py_dep_per_model": True, "preload": ("httptools",)}
    with running_server(store, cache, **settings) as running:
        yield running


def test_each_model_gets_the_versions_that_it_asks_for(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Beside each other, and although the zygote has imported another; installed only once."""
    for name in ("plain", "new", "old"):
        assert register(server, name).status_code == 200
    seen = {name: predict(server, name).text.split() for name in ("plain", "new", "old")}
    assert [seen[name][0] for name in seen] == ["other", "99.0", "0.0.1"]
    folders = {seen["new"][1], seen["old"][1]}
    environments = server.server.config.cache_dir / "environments"
    assert {Path(folder).parent for folder in folders} == {environments}
    caplog.clear()
    with caplog.at_level(logging.INFO, "flambeau.supervisor"):
        assert register(server, "new", model_name="again").status_code == 200
    assert predict(server, "again").text.split() == seen["new"]
    assert not [line for line in caplog.messages if "pip" in line]


def test_a_worker_of_such_a_model_comes_back(server: RunningServer) -> None:
    """It is replaced like any other, by one that has the same packages."""
    assert register(server, "new", model_name="mortal").status_code == 200
    (pid,) = worker_pids(server, "mortal")
    server.server.core.registry.get("mortal", "").pool.slots[0]._process.kill()  # type: ignore[union-attr]  # it has one
    assert predict(server, "mortal").text.startswith("99.0 ")
    assert worker_pids(server, "mortal") != [pid]


def test_packages_that_cannot_be_had_are_a_400(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    """TorchServe's type and text, and pip's reason; pip's whole output is in the log."""
    with caplog.at_level(logging.INFO, "flambeau.supervisor"):
        answer = register(server, "missing")
    assert (answer.status_code, answer.json()["type"]) == (400, "ModelException")
    message = answer.json()["message"]
    assert message.startswith("Custom pip package installation failed for model missing: ")
    assert "No matching distribution found for no-such-package==1.0" in message
    assert any(line.startswith("pip, model missing: ERROR:") for line in caplog.messages)
    assert predict(server, "missing").status_code == 404


def test_an_environment_without_requirements_has_the_servers_packages(
    server: RunningServer,
) -> None:
    """`useVenv` alone: an interpreter of its own."""
    assert register(server, "empty").status_code == 200
    answer = predict(server, "empty").text
    assert answer.startswith("other ")
    assert "environments" in answer


@pytest.fixture
def silent_index() -> Iterator[str]:
    """An index that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/simple"


def test_an_installation_has_a_time_limit(tmp_path: Path, silent_index: str) -> None:
    """TorchServe waits for ever; here `install_py_dep_timeout` ends it."""
    write_needy(tmp_path / "store", "slow", f"--index-url {silent_index}\nno-such-package\n")
    settings = {"install_py_dep_per_model": True, "install_py_dep_timeout": 1.0}
    with running_server(tmp_path / "store", tmp_path / "cache", **settings) as server:
        answer = register(server, "slow")
    assert answer.status_code == 400
    assert "not finished within 1 s (install_py_dep_timeout)" in answer.json()["message"]


def test_an_installation_does_not_hold_the_stop_up(tmp_path: Path, silent_index: str) -> None:
    """The server ends it, says so to the client that waits for it, and stops."""
    write_needy(tmp_path / "store", "slow", f"--index-url {silent_index}\nno-such-package\n")
    with ThreadPoolExecutor() as threads:
        settings = {"install_py_dep_per_model": True}
        with running_server(tmp_path / "store", tmp_path / "cache", **settings) as server:
            asking = threads.submit(register, server, "slow")
            environments = server.server.core.environments
            wait_until(lambda: bool(environments._running))
        answer = asking.result(60)
    assert answer.status_code == 400
    assert "the server is stopping" in answer.json()["message"]


def test_another_server_s_installation_does_not_hold_the_stop_up(tmp_path: Path) -> None:
    """Whoever waits for it is told, and the server stops."""
    folder = tmp_path / "cache" / "environments"
    folder.mkdir(parents=True)
    write_model(tmp_path / "store", "empty", HANDLER, useVenv=True)
    with ThreadPoolExecutor() as threads, (folder / f".{_digest(None)}.lock").open("wb") as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        with running_server(tmp_path / "store", tmp_path / "cache") as server:
            asking = threads.submit(register, server, "empty")
            environments = server.server.core.environments
            wait_until(lambda: bool(environments._making))
        answer = asking.result(60)
    assert answer.status_code == 400
    assert "the server is stopping" in answer.json()["message"]


def test_nothing_is_installed_unless_it_is_switched_on(tmp_path: Path) -> None:
    """The default: the requirements file is not looked at."""
    write_needy(tmp_path / "store", "missing", "--no-index\nno-such-package==1.0\n")
    with running_server(tmp_path / "store", tmp_path / "cache") as server:
        assert register(server, "missing").status_code == 200
        assert not (server.server.config.cache_dir / "environments").exists()
