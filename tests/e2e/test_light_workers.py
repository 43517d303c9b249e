"""Models that run in ONNX Runtime or OpenVINO: packed, served and answered without torch."""

import json
import os
import re
import subprocess
from pathlib import Path

import httpx
import psutil
import pytest

from flambeau.config import DEFAULT_PRELOAD
from flambeau.testing.models import tiny_model
from flambeau.testing.server import running_server
from flambeau.testing.waiting import wait_until
from tests.e2e.test_commands import COMMAND, serving


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return os.environ | {"FLAMBEAU_CACHE": str(tmp_path_factory.mktemp("cache")), "COLUMNS": "100"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = ["NEGATIVE", "POSITIVE"]
    return tiny_model(
        tmp_path_factory.mktemp("weights") / "tiny", "text-classification", labels=labels
    )


def pack(environment: dict[str, str], *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [COMMAND, "pack", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def store(
    environment: dict[str, str], folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Archives of one model: for each engine, and with its weights."""
    path = tmp_path_factory.mktemp("store")
    for engine in ("onnx", "openvino"):
        done = pack(
            environment, folder, "--engine", engine, "--name", engine, "--export-path", path
        )
        assert done.returncode == 0, done.stderr
        assert "scores within" in done.stderr
    done = pack(environment, folder, "--name", "torch", "--export-path", path)
    assert done.returncode == 0, done.stderr
    return path


def with_torch(root: int) -> list[int]:
    """The processes below `root`, itself included, that have loaded torch."""
    parent = psutil.Process(root)
    return [
        process.pid
        for process in (parent, *parent.children(recursive=True))
        if "libtorch" in Path(f"/proc/{process.pid}/maps").read_text()
    ]


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_serving_an_exported_model_loads_no_torch(
    environment: dict[str, str], store: Path, tmp_path: Path, engine: str
) -> None:
    """No process of `flambeau serve model.mar` imports torch, from the start to the answer."""
    log = tmp_path / "serve.log"
    with serving(environment, log, str(store / f"{engine}.mar")) as process:
        wait_until(lambda: "Ctrl-C" in log.read_text() or process.poll() is not None, 90)
        url = re.search(r"http://127\S+/predictions/\S+", log.read_text())
        assert url, log.read_text()
        answer = httpx.post(url.group(), content=b"the movie was great")
        assert {row["label"] for row in answer.json()} == {"NEGATIVE", "POSITIVE"}
        assert with_torch(process.pid) == []


def test_both_kinds_of_models_in_one_server(store: Path, tmp_path: Path) -> None:
    """Models with and without torch are served side by side, with equal answers."""
    answers = {}
    with running_server(store, tmp_path, load_models=("all",), preload=DEFAULT_PRELOAD) as server:
        for name in ("torch", "onnx", "openvino"):
            url = f"{server.inference}/predictions/{name}"
            rows = httpx.post(url, content=b"the movie was terrible").raise_for_status().json()
            answers[name] = {row["label"]: row["score"] for row in rows}
            described = httpx.get(f"{server.management}/models/{name}").json()
            assert name in json.dumps(described)
    for name in ("onnx", "openvino"):
        assert answers[name] == pytest.approx(answers["torch"], abs=1e-4)


def test_a_form_that_there_is_not(
    environment: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    """A wrong name says which there are, and nothing is written."""
    done = pack(environment, folder, "--export", "tensorrt", "--export-path", tmp_path)
    assert done.returncode == 1
    assert "'tensorrt' is no such engine. Allowed: onnx, openvino." in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_forms_beside_the_weights(
    environment: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    """--export adds forms for auto to choose from; without a verdict auto stays with torch."""
    done = pack(
        environment, folder, "--export", "onnx", "--precision", "auto", "--archive-format",
        "no-archive", "--name", "both", "--export-path", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    packed = {path.name for path in (tmp_path / "both").iterdir()}
    assert packed >= {"model.safetensors", "model.onnx", "model_int8.onnx", "tokenizer.json"}
    again = pack(
        environment, folder, "--engine", "onnx", "--precision", "bf16", "--export-path", tmp_path
    )
    assert again.returncode == 1
    assert "The engine onnx has no bf16. Allowed: fp32, fp16, int8." in again.stderr
