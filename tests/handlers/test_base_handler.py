"""BaseHandler over real small models (contract.md section 9.4)."""

import io
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from typing_extensions import override

from flambeau.errors import LoadError

Load = Any  # the fixture of conftest.py

HANDLER = """
    from ts.torch_handler.base_handler import BaseHandler
    class Doubler(BaseHandler):
        def preprocess(self, data):
            return super().preprocess([row["body"] for row in data])
        def get_insights(self, tensor, inputs, target):
            return [{"inputs": inputs, "target": target}] * len(tensor)
        def describe_handle(self):
            return {"doubles": True}
"""
MODEL = """
    import torch
    class Double(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = torch.nn.Parameter(torch.tensor(1.0))
        def forward(self, x):
            return x * self.factor
"""


def torch_script() -> bytes:
    """A TorchScript module that doubles."""

    class Double(torch.nn.Module):
        @override
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    buffer = io.BytesIO()
    with warnings.catch_warnings():  # TorchScript is deprecated, archives have it anyway
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(Double(), torch.ones(1)), buffer)  # type: ignore[no-untyped-call]  # torch has no types for it
    return buffer.getvalue()


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_torchscript_model(load: Load) -> None:
    """A .pt file without a model file is TorchScript."""
    served = load(
        {"my_handler.py": HANDLER, "model.pt": torch_script()},
        manifest={"serializedFile": "model.pt"},
    )
    assert [json.loads(body) for body in served.answer([1.0, 2.0], [3.0, 4.0])] == [[2, 4], [6, 8]]


def test_eager_model(load: Load) -> None:
    """A model file's class gets the state dict; labels are read; handler time is reported."""
    served = load(
        {
            "my_handler.py": HANDLER,
            "model.py": MODEL,
            "weights.pth": saved({"factor": torch.tensor(2.0)}),
            "index_to_name.json": '{"0": ["n01", "cat"]}',
        },
        manifest={"serializedFile": "weights.pth", "modelFile": "model.py"},
    )
    assert served.answer([1.0], [2.0]) == [b"[\n  2.0\n]", b"[\n  4.0\n]"]
    names = [sample.name for sample in served.runner.context.metrics.drain()]
    assert "HandlerTime" in names
    assert "ts_handler_inference" not in names


def test_profiled_steps(load: Load) -> None:
    """handler.profile reports a time per step."""
    served = load(
        {"my_handler.py": HANDLER, "model.py": MODEL},
        config="handler:\n  profile: true\n",
        manifest={"modelFile": "model.py"},
    )
    served.answer([1.0])
    samples = {sample.name: sample.unit for sample in served.runner.context.metrics.drain()}
    assert samples["ts_handler_inference"] == "Milliseconds"
    assert samples["ts_handler_postprocess"] == "Milliseconds"


def test_explain_and_describe(load: Load) -> None:
    """The server's headers ask for explanations or for the model's description."""
    served = load({"my_handler.py": HANDLER, "model.py": MODEL}, manifest={"modelFile": "model.py"})
    explained = served.answer(served.item([1.0], {"explain": "True"}))
    assert json.loads(explained[0]) == {"inputs": [1.0], "target": 0}
    described = served.answer(served.item([1.0], {"describe": "True", "explain": "False"}))
    assert json.loads(described[0]) == {"doubles": True}


@pytest.mark.parametrize(
    ("manifest", "files", "message"),
    [
        ({}, {}, "neither a serialized file nor a model file"),
        ({"serializedFile": "model.bin"}, {"model.bin": b""}, "No model weights .* model.bin"),
        ({"serializedFile": "m.so"}, {"m.so": b""}, "pt2.export.aot_compile"),
        ({"modelFile": "gone.py"}, {}, "model file 'gone.py' is not in the archive"),
        ({"modelFile": "m.py"}, {"m.py": "x = 1"}, "exactly one model class; it defines: none"),
        (
            {"modelFile": "m.py"},
            {"m.py": "class A: pass\nclass B: pass"},
            "exactly one model class; it defines: A, B",
        ),
    ],
)
def test_nothing_to_load(
    load: Load, manifest: dict[str, str], files: dict[str, Any], message: str
) -> None:
    """A missing or unusable model is named, with what to do."""
    with pytest.raises(LoadError, match=message):
        load({"my_handler.py": HANDLER, **files}, manifest=manifest)


def test_weights_with_code_are_refused(load: Load) -> None:
    """A pickle that would run code is not loaded; the message says how to save weights."""
    with pytest.raises(LoadError, match=r"weights.pth holds more than tensors.*state_dict"):
        load(
            {
                "my_handler.py": HANDLER,
                "model.py": MODEL,
                "weights.pth": saved(torch.nn.Sequential(torch.nn.Linear(1, 1))),
            },
            manifest={"serializedFile": "weights.pth", "modelFile": "model.py"},
        )


def test_each_request_s_own_flag_counts(load: Load) -> None:
    """Predictions, an explanation and a description in one batch; targets are each row's own."""
    served = load({"my_handler.py": HANDLER, "model.py": MODEL}, manifest={"modelFile": "model.py"})
    explained = served.item({"data": 1}, {"explain": "True"})
    predicted, described = served.item([3.0]), served.item([1.0], {"describe": "True"})
    answers = [json.loads(body) for body in served.answer(predicted, described, [4.0])]
    assert answers == [[3.0], {"doubles": True}, [4.0]]
    outcomes = served.run(predicted, explained)
    assert json.loads(outcomes[0][0].body) == [3.0]
    assert outcomes[1][0].message == "Prediction failed"
    flags = [served.item([float(n)], {"explain": "True"}) for n in (1, 2)]
    assert [json.loads(body)["inputs"] for body in served.answer(*flags)] == [[1.0], [2.0]]


def test_a_subclass_s_preprocess_runs_once(load: Load) -> None:
    """It may keep state: if it fails, the batch fails, and nothing is run again."""
    source = """
        from ts.torch_handler.base_handler import BaseHandler
        class Counter(BaseHandler):
            calls = 0
            def initialize(self, context):
                pass
            def preprocess(self, data):
                self.calls += 1
                return [self.calls // int(row["body"]) for row in data]
            def inference(self, data):
                return data
            def postprocess(self, data):
                return data
    """
    served = load(source)
    assert [error.message for error in served.errors("1", "0")] == ["Prediction failed"] * 2
    assert served.answer("1") == [b"2"]


def test_profiler(load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """ENABLE_TORCH_PROFILER writes a trace per batch to the folder for temporary files."""
    monkeypatch.setenv("ENABLE_TORCH_PROFILER", "1")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    served = load({"my_handler.py": HANDLER, "model.py": MODEL}, manifest={"modelFile": "model.py"})
    assert json.loads(served.answer([2.0])[0]) == [2.0]
    assert json.loads(served.answer(served.item([2.0], {"explain": "True"}))[0])["target"] == 0
    assert len(list((tmp_path / "pytorch_profiler" / "tiny").glob("*.json"))) == 2


def test_built_in_base_handler(load: Load) -> None:
    """`base_handler` needs no file; behind an envelope its rows are bare values."""
    served = load(
        {"model.pt": torch_script()},
        "base_handler",
        manifest={"serializedFile": "model.pt"},
        service_envelope="body",
    )
    assert [json.loads(body) for body in served.answer([1.0], [5.0])] == [[2.0], [10.0]]


def test_unknown_compile_backend_is_ignored(load: Load) -> None:
    """pt2 with an unknown backend serves the model as it is."""
    served = load(
        {"my_handler.py": HANDLER, "model.py": MODEL},
        config="pt2:\n  compile:\n    enable: true\n    backend: warp\n",
        manifest={"modelFile": "model.py"},
    )
    assert served.answer([1.0]) == [b"[\n  1.0\n]"]


def test_compiled_model(load: Load) -> None:
    """pt2.compile compiles the model with the given backend."""
    served = load(
        {"my_handler.py": HANDLER, "model.py": MODEL},
        config="pt2:\n  compile:\n    enable: true\n    backend: eager\n",
        manifest={"modelFile": "model.py"},
    )
    assert served.answer([3.0]) == [b"[\n  3.0\n]"]
