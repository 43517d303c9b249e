"""The engines for exported graphs: which file they take, what they refuse, what they import."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from flambeau import engines
from flambeau.engines.base import ModelSource, TokenSequence
from flambeau.errors import LoadError
from flambeau.types import Precision
from tests.engines.forms import Case, Forms

CASE = Case("bert", "text-classification")
ENGINES = ["onnx", "openvino"]
ROWS = [TokenSequence(list(range(5, 5 + length)), [0] * length) for length in (3, 9, 40)]

WITHOUT_TORCH = """
import sys
from pathlib import Path
from flambeau.testing.native import ServedNative
folder, file, engine = sys.argv[1:]
served = ServedNative(Path(folder), file=file, engine=engine)
served.handler.begin(1)
print(served("the movie was great")[0])
loaded = {"torch", "transformers", "onnx"} & set(sys.modules)
assert not loaded, loaded
"""
WITHOUT_PACKAGE = """
import sys
sys.modules[sys.argv[2]] = None  # as if it were not installed
from flambeau import engines
engines.load(sys.argv[1])
"""
SIGNALS = """
import faulthandler, signal, sys
from pathlib import Path
from flambeau import engines
from flambeau.engines.base import ModelSource
faulthandler.enable()  # as in a worker
source = ModelSource(Path(sys.argv[1]), "text-classification", ("logits",), pad_id=0, threads=1)
loaded = [engines.load(sys.argv[2])(source) for _ in range(2)]
while loaded:
    loaded.pop(0)
handled = []
signal.signal(signal.SIGUSR1, lambda number, _: handled.append(number))
signal.raise_signal(signal.SIGUSR1)
print(handled == [signal.SIGUSR1])
"""


def run(code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )


def graph(file: Path, **shapes: list[Any]) -> None:
    """An ONNX file that adds its inputs up; `out` is the output's shape, all others inputs'."""
    output = helper.make_tensor_value_info("logits", TensorProto.INT64, shapes.pop("out"))
    names = list(shapes)
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, shapes[name]) for name in names
    ]
    node = helper.make_node("Add", [names[0], names[-1]], ["logits"])
    made = helper.make_graph([node], "sum", inputs, [output])
    imports = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(made, opset_imports=imports, ir_version=8), file)


def source(folder: Path, **settings: Any) -> ModelSource:
    return msgspec.structs.replace(
        ModelSource(folder, "text-classification", ("logits",), pad_id=0, threads=1), **settings
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_is_served_without_importing_torch(
    forms: Forms, tmp_path: Path, engine: str
) -> None:
    """From the archive's files to the answer: neither torch nor transformers is loaded."""
    folder = shutil.copytree(forms.graphs(CASE), tmp_path / "model")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(forms.weights(CASE) / name, folder)
    file = "model.onnx" if engine == "onnx" else "openvino_model.xml"
    done = run(WITHOUT_TORCH, str(folder), file, engine)
    assert done.returncode == 0, done.stderr
    assert "score" in done.stdout


@pytest.mark.parametrize(("engine", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_missing_package_names_the_extra(engine: str, package: str) -> None:
    """The error says what to install."""
    done = run(WITHOUT_PACKAGE, engine, package)
    assert f"pip install 'flambeau[{engine}]'" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("engine", ENGINES)
def test_signals_are_handled_after_engines_have_gone(forms: Forms, engine: str) -> None:
    """Models that come and go, the first one first, leave the process able to take signals."""
    done = run(SIGNALS, str(forms.graphs(CASE)), engine)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


@pytest.mark.parametrize("engine", ENGINES)
def test_int8_is_near_and_never_silent(forms: Forms, tmp_path: Path, engine: str) -> None:
    """An int8 graph runs only where it was asked for, and answers nearly the same."""
    asked = forms.source(engine, CASE)
    exact = engines.load(engine)(asked).forward(ROWS)
    coarse = engines.load(engine)(msgspec.structs.replace(asked, precision="int8")).forward(ROWS)
    gaps = [
        float(np.abs(one["logits"] - two["logits"]).max())
        for one, two in zip(exact, coarse, strict=True)
    ]
    assert 1e-5 < max(gaps) < 0.5
    for file in forms.graphs(CASE).glob("*_int8.*"):
        shutil.copy(file, tmp_path)
    with pytest.raises(LoadError, match=r"no fp32 graph.*set precision: int8"):
        engines.load(engine)(source(tmp_path))


@pytest.mark.parametrize(
    ("engine", "precision", "message"),
    [
        ("onnx", "int8", "no int8 graph.*--engine onnx --precision int8 makes one"),
        ("openvino", "int8", "no int8 graph.*--engine openvino --precision int8 makes one"),
        ("onnx", "bf16", "precision is bf16, which the engine onnx does not have.*fp32"),
        ("onnx", None, "no fp32 graph for the engine onnx: no model.onnx"),
    ],
)
def test_a_graph_that_is_not_there(
    tmp_path: Path, engine: str, precision: Precision | None, message: str
) -> None:
    """The error says what was looked for and how to make it."""
    with pytest.raises(LoadError, match=message):
        engines.load(engine)(source(tmp_path, precision=precision))


@pytest.mark.parametrize("engine", ENGINES)
def test_layouts_of_optimum_and_of_the_hub(forms: Forms, tmp_path: Path, engine: str) -> None:
    """Graphs lie at the top or below onnx/ and openvino/; OpenVINO reads an ONNX file, too."""
    (tmp_path / "onnx").mkdir()
    shutil.copy(forms.graphs(CASE) / "model.onnx", tmp_path / "onnx")
    shutil.copy(forms.graphs(CASE) / "model_int8.onnx", tmp_path / "onnx" / "model_quantized.onnx")
    expected = engines.load("onnx")(forms.source("onnx", CASE)).forward(ROWS)
    found = engines.load(engine)(source(tmp_path)).forward(ROWS)
    for one, two in zip(expected, found, strict=True):
        np.testing.assert_allclose(one["logits"], two["logits"], atol=1e-4)
    engines.load("onnx")(source(tmp_path, precision="int8"))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_graph_that_the_manifest_names(forms: Forms, engine: str) -> None:
    """It runs whatever its name is, and says which precision it has."""
    folder = forms.graphs(CASE)
    name = {"onnx": "model_int8.onnx", "openvino": "openvino_model_int8.xml"}[engine]
    named = engines.load(engine)(source(folder, file=folder / name))
    asked = engines.load(engine)(source(folder, precision="int8"))
    assert named.precision == "int8"
    for one, two in zip(named.forward(ROWS), asked.forward(ROWS), strict=True):
        np.testing.assert_allclose(one["logits"], two["logits"], atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"input_ids": [1, 128], "out": [1, 128]}, "rows of one size only"),
        ({"pixel_values": ["b", "s"], "out": ["b", "s"]}, "takes pixel_values: not a text"),
        ({"input_ids": ["b", "s", "w"], "out": ["b", "s", "w"]}, "rows of one size only"),
    ],
)
def test_graphs_that_cannot_be_run(
    tmp_path: Path, engine: str, shapes: dict[str, list[Any]], message: str
) -> None:
    """Fixed axes and inputs that no tokenizer gives are refused at load, by name."""
    graph(tmp_path / "model.onnx", **shapes)
    with pytest.raises(LoadError, match=message):
        engines.load(engine)(source(tmp_path))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_graph_of_another_task(forms: Forms, engine: str) -> None:
    """A graph that gives one value per text cannot name entities."""
    asked = msgspec.structs.replace(forms.source(engine, CASE), task="token-classification")
    with pytest.raises(LoadError, match="gives logits: it was not exported for token-class"):
        engines.load(engine)(asked)
    with pytest.raises(LoadError, match="does not generate text"):
        engines.load(engine)(msgspec.structs.replace(asked, task="text-generation"))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_file_that_is_no_graph(tmp_path: Path, engine: str) -> None:
    """A broken file is a load error in one line."""
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(LoadError, match=r"model\.onnx cannot be loaded by"):
        engines.load(engine)(source(tmp_path))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_worker_begins_with_its_own_threads(forms: Forms, engine: str) -> None:
    """A model that was loaded with one thread runs with as many as the worker has."""
    loaded = engines.load(engine)(forms.source(engine, CASE))
    before = loaded.forward(ROWS)
    loaded.begin(2)
    for one, two in zip(before, loaded.forward(ROWS), strict=True):
        np.testing.assert_allclose(one["logits"], two["logits"], atol=1e-4)


def test_a_graph_of_states_is_not_taken_for_one_of_scores(forms: Forms) -> None:
    """And the reverse: a graph is for the task that it was exported for."""
    states, scores = Case("roberta", "embeddings"), CASE
    for engine in ENGINES:
        for case, other in ((states, scores), (scores, states)):
            wanted = forms.source(engine, other)
            wrong = msgspec.structs.replace(forms.source(engine, case), task=wanted.task)
            with pytest.raises(LoadError, match="was not exported for"):
                engines.load(engine)(msgspec.structs.replace(wrong, outputs=wanted.outputs))
