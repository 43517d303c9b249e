"""What real handlers report: the native handler's phases and tokens, and `BaseHandler`'s times."""

import asyncio

import httpx

from flambeau.testing.echo import register, write_model
from flambeau.testing.server import RunningServer
from tests.e2e.test_main_job import TEXTS, post, post_together
from tests.telemetry.metric_models import families

BASE_HANDLER = """
import torch
from ts.torch_handler.base_handler import BaseHandler

class Doubler(BaseHandler):
    def initialize(self, context):
        super().initialize(context)

    def _load_torchscript_model(self, path):
        return torch.nn.Identity()

    def preprocess(self, data):
        return super().preprocess([[1.0] for row in data])
"""


def test_the_native_handler_s_phases_and_tokens(served: RunningServer) -> None:
    """Per model and version: times of each phase, tokens and the padding's share of a batch."""
    model = ("model_name=text-classification", "model_version=1.0")

    def total(name: str) -> float:
        return families(served).get(f"flambeau_{name}", {}).get(model, 0)

    before = {name: total(name) for name in ("batch_tokens_sum", "batch_tokens_count")}
    answers = asyncio.run(post_together(served, "text-classification", TEXTS))
    tokens = sum(int(answer.headers["x-flambeau-tokens"]) for answer in answers)
    assert total("batch_tokens_sum") - before["batch_tokens_sum"] == tokens
    batches = total("batch_tokens_count") - before["batch_tokens_count"]
    assert 1 <= batches <= len(TEXTS)
    for phase in ("tokenise", "compute", "postprocess"):
        assert total(f"{phase}_seconds_count") == total("batch_tokens_count")
        assert 0 < total(f"{phase}_seconds_sum") < total("handler_seconds_sum")
    assert total("padding_ratio_count") == total("batch_tokens_count")
    assert 0 <= total("padding_ratio_sum") < total("padding_ratio_count")
    assert total("request_seconds_count") >= len(TEXTS)


def test_generated_tokens_count(served: RunningServer) -> None:
    """Read and generated, as the answer's header says."""
    model = ("model_name=text-generation", "model_version=1.0")

    def tokens() -> float:
        return families(served).get("flambeau_batch_tokens_sum", {}).get(model, 0)

    before = tokens()
    answer = post(served, "text-generation", "the light of the")
    assert tokens() - before == int(answer.headers["x-flambeau-tokens"])


def test_padding_is_counted(served: RunningServer) -> None:
    """A traced model that takes one shape only pads each text to it."""
    model = ("model_name=text-classification-traced", "model_version=1.0")
    asyncio.run(post_together(served, "text-classification-traced", TEXTS))
    found = families(served)
    assert found["flambeau_padding_ratio_count"][model] >= 1
    assert found["flambeau_padding_ratio_sum"][model] >= 0


def test_handler_time_of_the_native_handler(served: RunningServer) -> None:
    """As of TorchServe's Transformers handler, which derives from BaseHandler."""
    assert post(served, "token-classification", "Ada").status_code == 200
    found = families(served)
    labels = ("Level=Model", "ModelName=token-classification")
    assert 0 < found["HandlerTime"][labels] <= found["PredictionTime"][labels]


def test_base_handler_s_times(served: RunningServer) -> None:
    """`HandlerTime`, and with `handler.profile` a time for each step that `timed` covers."""
    store = served.server.config.model_store
    assert store is not None
    folder = write_model(store, "profiled", BASE_HANDLER, handler={"profile": True})
    manifest = folder / "MAR-INF" / "MANIFEST.json"
    text = manifest.read_text().replace("handler.py:handle", "handler.py")
    manifest.write_text(text.replace('"modelName"', '"serializedFile": "m.pt", "modelName"'))
    (folder / "m.pt").touch()
    assert register(served, "profiled").status_code == 200
    try:
        answer = post(served, "profiled", "x")
        assert answer.json() == [1.0]
        found = families(served)
    finally:
        assert httpx.delete(f"{served.management}/models/profiled").status_code == 200
    labels = ("Level=Model", "ModelName=profiled")
    for name in ("HandlerTime", "PredictionTime"):
        assert found[name][labels] >= 0
    for step in ("preprocess", "inference", "postprocess"):
        assert found[f"ts_handler_{step}"][labels] >= 0
    assert "ts_handler_inference" not in families(served)
