"""Smaller parts of TorchServe's import surface (contract.md sections 9.3 and 9.7)."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from flambeau.errors import LoadError
from flambeau.handlers.ts.context import Context, RequestProcessor
from flambeau.handlers.ts.handler_utils.distributed.deepspeed import (
    create_checkpoints_json,
    get_ds_engine,
)
from flambeau.handlers.ts.handler_utils.distributed.pt_pippy import (
    get_pipeline_driver,
    initialize_rpc_workers,
)
from flambeau.handlers.ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from flambeau.handlers.ts.model_service.model_service import SingleNodeService
from flambeau.handlers.ts.protocol.frames import parse_response
from flambeau.handlers.ts.torch_handler.distributed.base_deepspeed_handler import (
    BaseDeepSpeedHandler,
)
from flambeau.handlers.ts.torch_handler.distributed.base_pippy_handler import BasePippyHandler
from flambeau.handlers.ts.utils import setup_model_venv
from flambeau.handlers.ts.utils.timeit_decorator import timeit


def context(folder: Path, config: dict[str, Any] | None = None, manifest: Any = None) -> Context:
    return Context("m", str(folder), manifest, 1, None, "0.12.0", True, None, config)


def test_names_of_sequence_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment may rename them, as for TorchServe's workers."""
    assert context(tmp_path).header_key_sequence_end == "ts_request_sequence_end"
    monkeypatch.setenv("TS_REQUEST_SEQUENCE_ID", "X-Session")
    renamed = context(tmp_path)
    assert renamed.header_key_sequence_id == "X-Session"
    renamed.request_processor = [RequestProcessor({"X-Session": "s"})]
    assert renamed.get_sequence_id(0) == "s"
    assert renamed.stopping_criteria is None


def test_timeit(caplog: pytest.LogCaptureFixture) -> None:
    """The result comes through, the times go to the log (TorchServe's own always fails)."""
    with caplog.at_level(logging.INFO):
        assert timeit(lambda: 7)() == 7
    assert "sec of CPU time" in caplog.text


def test_environment_that_inherits_packages(tmp_path: Path) -> None:
    """Its Python imports what this one has installed."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    setup_model_venv.inherit_site_packages(str(venv))
    command = [str(venv / "bin" / "python"), "-c", "import msgspec; print(msgspec.__file__)"]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "msgspec" in found


class Doubler(SingleNodeService):
    """A handler from before TorchServe."""

    @override
    def ping(self) -> str:
        return "healthy!"

    @override
    def _inference(self, data: Any) -> Any:
        return [item * 2 for item in data]


def test_handlers_from_before_torchserve(tmp_path: Path) -> None:
    """A service with a signature file answers the first row."""
    signature = {"input_type": "application/json", "inputs": [{"data_name": "n"}]}
    (tmp_path / "signature.json").write_text(json.dumps(signature))
    service = Doubler("m", str(tmp_path), {})
    service.initialize(context(tmp_path, manifest={"Model": {"Signature": "signature.json"}}))
    assert service.signature() == signature
    assert service.handle([{"n": b"[1]"}], None) == [[1, 1]]
    assert service.handle([{"body": 4}], None) == [8]
    with pytest.raises(ValueError, match=r"no signature file 'gone\.json'"):
        service.initialize(context(tmp_path, manifest={"Model": {"Signature": "gone.json"}}))


def test_deepspeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is said; the list of weights is DeepSpeed's."""
    section = {"deepspeed": {}, "handler": {"model_path": "m"}}
    for config, message in (
        ({}, "no section `deepspeed`"),
        ({"deepspeed": {}}, "no `handler.model_path`"),
        (section, "needs the package deepspeed.*pip install deepspeed"),
    ):
        with pytest.raises(LoadError, match=message):
            get_ds_engine(None, context(tmp_path, config))
    (tmp_path / "a.bin").write_bytes(b"")
    create_checkpoints_json(str(tmp_path), str(tmp_path / "list.json"))
    listed = json.loads((tmp_path / "list.json").read_text())
    assert listed == {"type": "ds_model", "checkpoints": [str(tmp_path / "a.bin")], "version": 1.0}
    monkeypatch.setenv("LOCAL_RANK", "3")
    handler = BaseDeepSpeedHandler()
    handler.initialize(context(tmp_path))
    assert handler.get_device() == 3


def test_pippy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is said: keys, the package, torchrun, a GPU."""
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(LoadError, match="run under torchrun, which sets 'LOCAL_RANK'"):
        BasePippyHandler().initialize(context(tmp_path))
    with pytest.raises(LoadError, match=r"lacks pippy\.rpc_timeout, pippy\.num_worker_threads"):
        initialize_rpc_workers(0, 1, context(tmp_path))
    config: dict[str, Any] = {
        "pippy": {"input_names": [], "model_type": "HF"},
        "handler": {"model_path": str(tmp_path)},
    }
    with pytest.raises(LoadError, match="needs the package pippy"):
        get_pipeline_driver(None, 1, context(tmp_path, config))
    config["handler"] = {"model_path": str(tmp_path), "index_filename": "gone.json"}
    with pytest.raises(LoadError, match=r"no index file 'gone\.json'"):
        get_pipeline_driver(None, 1, context(tmp_path, config))


def test_model_loader(tmp_path: Path) -> None:
    """`ts.model_loader` loads a folder's handler, behind an envelope, and answers frames."""
    from ts.model_loader import ModelLoaderFactory

    source = "def handle(data, context):\n    return [repr(row) for row in data or []]\n"
    (tmp_path / "loaded_handler.py").write_text(source)
    loader = ModelLoaderFactory.get_model_loader()
    path = list(sys.path)
    service = loader.load(
        "m",
        str(tmp_path),
        "loaded_handler.py",
        None,
        1,
        "body",
        metrics_cache=MetricsCacheYamlImpl(model_name="m"),
    )
    assert sys.path == path
    parameter = {"name": "body", "value": "x", "contentType": ""}
    frame = service.predict([{"requestId": b"r", "parameters": [parameter]}])
    assert [part.body for part in parse_response(frame or b"")[2]] == [b"'x'"]
    with pytest.raises(LoadError, match="No handler 'gone'"):
        loader.load("m", str(tmp_path), "gone.py")
