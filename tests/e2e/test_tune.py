"""`flambeau tune`: measures, says what it found, and `engine: auto` goes by it."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import httpx
import msgspec
import pytest

from flambeau.archive.verdict import Verdict, read_verdict, verdict_file, write_verdict
from flambeau.testing.models import tiny_model
from flambeau.testing.server import running_server
from tests.e2e.test_commands import COMMAND


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    cache = str(tmp_path_factory.mktemp("cache"))
    return os.environ | {"FLAMBEAU_CACHE": cache, "COLUMNS": "160", "OMP_NUM_THREADS": "1"}


def flambeau(
    environment: dict[str, str], *arguments: str | Path
) -> "subprocess.CompletedProcess[str]":
    command = [COMMAND, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def tuned(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with several forms of a model, as a folder, and the verdict beside it."""
    store = tmp_path_factory.mktemp("store")
    weights = tiny_model(tmp_path_factory.mktemp("weights") / "tiny", "text-classification")
    packed = flambeau(
        environment, "pack", weights, "--export", "onnx", "--precision", "auto", "--name", "m",
        "--archive-format", "no-archive", "--export-path", store,
    )  # fmt: skip
    assert packed.returncode == 0, packed.stderr
    done = flambeau(environment, "tune", store / "m", "--threads", "1", "--agreement", "0.5")
    assert done.returncode == 0, done.stderr
    assert "openvino fp32: loaded" in done.stderr, "it reads the ONNX file"
    for word in ("reference", "onnx", "int8", "equal labels", "From now on engine: auto runs it"):
        assert word in done.stdout, done.stdout
    return store / "m"


def verdict_of(archive: Path) -> Verdict:
    return msgspec.json.decode(verdict_file(archive).read_bytes(), type=Verdict)


def test_what_is_kept(tuned: Path) -> None:
    """Each engine and precision with its times and its nearness to fp32 torch, the first row."""
    verdict = verdict_of(tuned)
    assert (verdict.texts, verdict.threads) == (240, 1)
    assert {"flambeau", "torch", "transformers", "onnxruntime"} <= verdict.versions.keys()
    rows = {(one.engine, one.precision): one for one in verdict.candidates}
    assert {("torch", "fp32"), ("onnx", "fp32"), ("onnx", "int8")} <= rows.keys()
    assert all(one.cpu_ms > 0 and one.wall_ms > 0 for one in verdict.candidates)
    exact = rows["onnx", "fp32"]
    assert exact.accepted
    assert exact.labels == 1
    assert exact.difference < 1e-4
    assert 0 < rows["onnx", "int8"].difference < 0.2


def test_int8_is_chosen_only_where_it_is_allowed(tuned: Path) -> None:
    """auto stays with fp32, whatever is faster, unless precision: auto allows more."""
    verdict = verdict_of(tuned)
    fast = msgspec.structs.replace(verdict.candidates[0], precision="int8", cpu_ms=1e-6)
    coarse = msgspec.structs.replace(fast, engine="onnx", cpu_ms=1e-9, accepted=False)
    verdict = msgspec.structs.replace(verdict, candidates=[*verdict.candidates, fast, coarse])
    exact = verdict.best(None)
    assert exact is not None
    assert exact.precision == "fp32"
    assert verdict.best("int8") == fast
    assert verdict.best(None, any_precision=True) == fast


def test_auto_goes_by_the_verdict(tuned: Path, tmp_path: Path) -> None:
    """The engine that was fastest serves the model; without a verdict it is torch, as ever."""
    verdict = verdict_of(tuned)
    slow_torch = [
        msgspec.structs.replace(one, cpu_ms=1000.0) if one.engine == "torch" else one
        for one in verdict.candidates
    ]
    store = tmp_path / "store"
    store.mkdir()
    for name in ("told", "untold"):
        shutil.copytree(tuned, store / name)
    write_verdict(store / "told", msgspec.structs.replace(verdict, candidates=slow_torch))
    with running_server(store, tmp_path / "cache") as server:
        engines = {}
        for name in ("told", "untold"):
            query = f"url={name}&model_name={name}&initial_workers=1&synchronous=true"
            httpx.post(f"{server.management}/models?{query}").raise_for_status()
            answer = httpx.post(f"{server.inference}/predictions/{name}", content=b"great")
            assert answer.status_code == 200
            engines[name] = server.server.core.registry.get(name).info["engine"]
    assert engines == {"told": "onnx", "untold": "torch"}


@pytest.mark.parametrize("field", ["weights", "cpu", "versions"])
def test_a_verdict_on_something_else_is_not_used(
    tuned: Path, tmp_path: Path, field: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Other weights, packages or another CPU: the log says so, and there is no verdict."""
    assert read_verdict(tuned, tuned) is not None
    other = {"weights": "0", "cpu": "another", "versions": {"flambeau": "0.0.0"}}[field]
    archive = tmp_path / "m"
    write_verdict(archive, msgspec.structs.replace(verdict_of(tuned), **{field: other}))
    assert read_verdict(archive, tuned) is None
    assert "Run flambeau tune again" in caplog.text
    verdict_file(archive).write_text("{}")
    assert read_verdict(archive, tuned) is None


def test_own_texts(environment: dict[str, str], tuned: Path, tmp_path: Path) -> None:
    """A file with one input per line takes the place of the built-in texts; a wrong line is named."""
    texts = tmp_path / "texts.txt"
    texts.write_text("the movie was great\n\n" + json.dumps({"text": "a terrible movie"}) + "\n")
    archive = tmp_path / "m"
    shutil.copytree(tuned, archive)
    done = flambeau(
        environment, "tune", archive, "--texts", texts, "--precision", "fp32", "--threads", "1"
    )
    assert done.returncode == 0, done.stderr
    verdict = verdict_of(archive)
    assert verdict.texts == 2
    assert {one.precision for one in verdict.candidates} == {"fp32"}
    texts.write_text('fine\n{"txt": 1}\n')
    done = flambeau(environment, "tune", archive, "--texts", texts)
    assert done.returncode == 1
    assert "line 2" in done.stderr
