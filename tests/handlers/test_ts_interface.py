"""The names that handlers import from `ts` (contract.md sections 7.6, 9.3 and 9.7)."""

import copy
import importlib
import io
import json
import logging
import os
import sys
from pathlib import Path

import pytest

from flambeau.handlers.ts.alias import install_ts
from flambeau.handlers.ts.context import Context, RequestProcessor
from flambeau.handlers.ts.handler_utils.utils import import_class
from flambeau.handlers.ts.metrics.dimension import Dimension
from flambeau.handlers.ts.metrics.metric_cache_errors import (
    MetricsCacheIOError,
    MetricsCacheKeyError,
    MetricsCachePyYamlError,
    MetricsCacheTypeError,
    MetricsCacheValueError,
)
from flambeau.handlers.ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from flambeau.handlers.ts.metrics.metric_type_enum import MetricTypes
from flambeau.handlers.ts.metrics.metrics_store import MetricsStore
from flambeau.handlers.ts.metrics.process_memory_metric import check_process_mem_usage
from flambeau.handlers.ts.metrics.system_metrics import collect_all
from flambeau.handlers.ts.service import emit_metrics, feed_metrics_to
from flambeau.handlers.ts.torch_handler.compile_options import compile_options, wants_aot_export
from flambeau.handlers.ts.torch_handler.unit_tests.test_utils.mock_context import MockContext
from flambeau.handlers.ts.utils import util

NAMES = {
    "": "__version__",
    "async_service": "AsyncService",
    "context": "Context RequestProcessor",
    "handler_utils.distributed.deepspeed": "get_ds_engine",
    "handler_utils.distributed.pt_pippy": "get_pipeline_driver initialize_rpc_workers",
    "handler_utils.hf_batch_streamer": "TextIteratorStreamerBatch",
    "handler_utils.micro_batching": "MicroBatching",
    "handler_utils.preprocess.dali": "get_dali_pipeline",
    "handler_utils.text_utils": "get_tokenizer ngrams_iterator",
    "handler_utils.timer": "timed",
    "handler_utils.utils": "create_predict_response import_class send_intermediate_predict_response",
    "metrics.caching_metric": "CachingMetric",
    "metrics.dimension": "Dimension",
    "metrics.metric": "Metric",
    "metrics.metric_cache_errors": "MetricsCacheKeyError MetricsCacheTypeError MetricsCacheValueError",
    "metrics.metric_cache_yaml_impl": "MetricsCacheYamlImpl",
    "metrics.metric_type_enum": "MetricTypes",
    "metrics.metrics_store": "MetricsStore",
    "metrics.process_memory_metric": "check_process_mem_usage get_cpu_usage",
    "metrics.system_metrics": "collect_all",
    "metrics.unit": "Units",
    "model_service.model_service": "ModelService SingleNodeService",
    "protocol.otf_message_handler": "create_predict_response retrieve_msg"
    " send_intermediate_predict_response",
    "service": "PREDICTION_METRIC PredictionException Service emit_metrics",
    "torch_handler.base_handler": "BaseHandler IPEX_AVAILABLE ONNX_AVAILABLE PROFILER_AVAILABLE"
    " PT2_AVAILABLE XLA_AVAILABLE setup_ort_session",
    "torch_handler.contractions": "CONTRACTION_MAP",
    "torch_handler.dali_handler": "DALIHandler",
    "torch_handler.dali_image_classifier": "DALIHandler DALIImageClassifier",
    "torch_handler.densenet_handler": "DenseNetHandler",
    "torch_handler.distributed.base_deepspeed_handler": "BaseDeepSpeedHandler",
    "torch_handler.distributed.base_pippy_handler": "BasePippyHandler",
    "torch_handler.image_classifier": "ImageClassifier",
    "torch_handler.image_segmenter": "ImageSegmenter",
    "torch_handler.object_detector": "ObjectDetector",
    "torch_handler.request_envelope.base": "BaseEnvelope",
    "torch_handler.request_envelope.body": "BodyEnvelope",
    "torch_handler.request_envelope.json": "JSONEnvelope",
    "torch_handler.request_envelope.kserve": "KServeEnvelope",
    "torch_handler.request_envelope.kservev2": "KServev2Envelope",
    "torch_handler.text_classifier": "TextClassifier",
    "torch_handler.text_handler": "TextHandler",
    "torch_handler.trt_llm_handler": "TRTLLMHandler",
    "torch_handler.unit_tests.test_utils.mock_context": "MockContext",
    "torch_handler.vision_handler": "VisionHandler",
    "torch_handler.vllm_handler": "VLLMHandler",
    "utils.hf_utils": "download_model",
    "utils.setup_model_venv": "create_venv inherit_site_packages",
    "utils.timeit_decorator": "timeit",
    "utils.util": "CLEANUP_REGEX PT2Backend PredictionException check_valid_pt2_backend deprecated"
    " get_yaml_config list_classes_from_module load_label_mapping map_class_to_label",
    "version": "__version__",
}


@pytest.mark.parametrize("name", NAMES)
def test_import(name: str) -> None:
    """Each name is there, and its module is one object under both names."""
    install_ts()
    install_ts()
    module_name = f"ts.{name}".rstrip(".")
    module = importlib.import_module(module_name)
    assert [attribute for attribute in NAMES[name].split() if not hasattr(module, attribute)] == []
    home = importlib.import_module(f"flambeau.handlers.{module_name}")
    assert module is home
    assert module.__spec__ is not None
    assert module.__spec__.name == home.__name__


def test_ours_wins_over_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A torchserve package on the path, even one imported before, is not what `ts` means."""
    (tmp_path / "ts").mkdir()
    (tmp_path / "ts" / "__init__.py").write_text("__version__ = 'another'")
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.import_module("ts").__version__ == "another"
    install_ts()
    assert importlib.import_module("ts").__version__ == "0.12.0"


def test_missing_name_is_named() -> None:
    """What is not provided fails as an ImportError that says so."""
    install_ts()
    with pytest.raises(ImportError, match=r"'ts\.torch_handler\.no_such': this version"):
        importlib.import_module("ts.torch_handler.no_such")
    with pytest.raises(ImportError, match="no_such_name"):
        exec("from ts.torch_handler import no_such_name", {})


def test_server_process_is_untouched() -> None:
    """Importing our package makes no `ts` in this process: only install_ts or `import ts` does."""
    importlib.import_module("flambeau.server")
    assert "ts" not in sys.modules


def test_import_class() -> None:
    """A class by its dotted name, with or without a prefix; what is missing is named."""
    assert import_class("collections.OrderedDict").__name__ == "OrderedDict"
    assert import_class("OrderedDict", "collections").__name__ == "OrderedDict"
    assert import_class("abc.Mapping", "collections").__name__ == "Mapping"
    for name, message in [("", "empty"), ("Lonely", "names no module"), ("json.Nope", "'Nope'")]:
        with pytest.raises(ImportError, match=message):
            import_class(name)


def test_label_mapping(tmp_path: Path) -> None:
    """Labels, lists of labels and object_type_names are read; other documents are refused."""
    file = tmp_path / "index_to_name.json"
    assert util.load_label_mapping(str(file)) is None
    file.write_text('{"0": "a", "1": ["n02", "b"]}')
    assert util.load_label_mapping(str(file)) == {"0": "a", "1": "b"}
    file.write_text('{"object_type_names": ["x", "y"]}')
    assert util.load_label_mapping(str(file)) == {"0": "x", "1": "y"}
    for wrong in ("[1]", '{"0": 1}', '{"0": []}'):
        file.write_text(wrong)
        with pytest.raises(TypeError, match=r"index_to_name\.json"):
            util.load_label_mapping(str(file))


def test_map_class_to_label() -> None:
    """Probabilities by label, by number without labels, and for chosen classes."""
    assert util.map_class_to_label([[0.1, 0.9]]) == [{"0": 0.1, "1": 0.9}]
    labels = {"0": "no", "1": "yes", "2": "maybe"}
    assert util.map_class_to_label([[0.7], [0.6]], labels, [[2], [1]]) == [
        {"maybe": 0.7},
        {"yes": 0.6},
    ]


def test_small_helpers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """YAML files, backends, HTML clean-up, the error's text and deprecation."""
    (tmp_path / "a.yaml").write_text("a: [1]")
    assert util.get_yaml_config(str(tmp_path / "a.yaml")) == {"a": [1]}
    assert util.check_valid_pt2_backend("inductor")
    assert not util.check_valid_pt2_backend("warp")
    assert util.CLEANUP_REGEX.sub("", "<b>a</b>&amp;b&#39;") == "ab"
    assert str(util.PredictionException("bad", 418)) == "bad : 418"
    old = util.deprecated("1.0", "new()")(lambda: 7)
    with pytest.warns(PendingDeprecationWarning, match=r"use new\(\)"):
        assert old() == 7


@pytest.mark.parametrize(
    ("section", "options"),
    [
        (None, None),
        ("inductor", {"backend": "inductor"}),
        ("warp", None),
        ({"backend": "eager", "mode": "x"}, {"backend": "eager", "mode": "x"}),
        ({"compile": {"enable": True, "backend": "eager"}}, {"backend": "eager"}),
        ({"compile": {"enable": True}}, {}),
        ({"compile": {"enable": False}}, None),
        ({"export": {"aot_compile": True}}, None),
    ],
)
def test_compile_section(section: object, options: object) -> None:
    """The three forms of `pt2`, without changing the configuration."""
    config = {"pt2": section}
    before = copy.deepcopy(config)
    assert compile_options(config) == options
    assert config == before


def test_compile_section_of_a_wrong_type() -> None:
    """A number is no `pt2` section; an export is recognised."""
    with pytest.raises(TypeError, match="pt2"):
        compile_options({"pt2": 3})
    assert wants_aot_export({"pt2": {"export": {"aot_compile": True}}})
    assert not wants_aot_export({"pt2": "inductor"})


def context() -> Context:
    return Context("m", "/m", None, 1, None, "0.12.0")


def test_context_outside_a_batch() -> None:
    """While the model loads there are no requests: ids are None, headers say why not."""
    idle = context()
    assert idle.get_request_id(0) is None
    assert idle.model_yaml_config == {}
    idle.set_response_status(500)
    idle.set_all_response_status(500)
    with pytest.raises(RuntimeError, match="no request is running"):
        idle.get_request_header(0, "explain")


def test_context_compares_by_value_and_copies() -> None:
    """Contexts with the same content are equal; a handler may copy one."""
    one, two = context(), context()
    assert one == two
    assert copy.deepcopy(one) == two
    one.cache = 1  # type: ignore[attr-defined]  # handlers park state on it
    assert one != two


def test_request_processor() -> None:
    """Status, phrase and headers as they were set."""
    processor = RequestProcessor({"A": "1"})
    assert processor.get_response_status_code() == 200
    assert processor.get_response_status_phrase() is None
    processor.report_status(503, "busy")
    processor.add_response_property("X", 5)
    assert processor.get_response_status_code() == 503
    assert processor.get_response_status_phrase() == "busy"
    assert processor.get_response_headers() == {"X": "5"}
    assert processor.get_response_header("X") == "5"
    assert processor.get_request_properties() == {"A": "1"}
    assert "a" not in processor.get_request_properties()
    assert processor.get_request_property("a") == "1"


def test_sequence_and_content_type() -> None:
    """The sequence id is a request header; the content type is a response header."""
    running = context()
    running.request_processor = [RequestProcessor({"TS_request_sequence_id": "s1"})]
    assert running.get_sequence_id(0) == "s1"
    assert running.get_response_content_type(0) is None
    running.set_response_content_type(0, "text/csv")
    assert running.get_response_content_type(0) == "text/csv"
    assert running.get_response_status(0) == (200, None)


def test_every_kind_of_metric() -> None:
    """Each method has its unit and type; wrong units are refused."""
    metrics = MetricsCacheYamlImpl(model_name="m")
    metrics.set_request_ids({0: "a", 1: "b"})
    metrics.add_counter("c", 1)
    metrics.add_time("t", 2.5, 1, "s")
    metrics.add_size("s", 3, unit="kB")
    metrics.add_percent("p", 50)
    metrics.add_error("e", 1)
    metrics.add_metric("g", 4, "files", metric_type=MetricTypes.HISTOGRAM)
    found = {s.name: (s.value, s.unit, s.metric_type.value, s.request_id) for s in metrics.drain()}
    assert found == {
        "c": (1, "Count", "counter", "a,b"),
        "t": (2.5, "Seconds", "gauge", "b"),
        "s": (3, "Kilobytes", "gauge", "a,b"),
        "p": (50, "Percent", "gauge", "a,b"),
        "e": (1, "unit", "counter", ""),
        "g": (4, "files", "histogram", "a,b"),
    }
    with pytest.raises(MetricsCacheValueError):
        metrics.add_time("t", 1, unit="min")
    with pytest.raises(MetricsCacheValueError):
        metrics.add_size("s", 1, unit="TB")


def test_defined_metric(caplog: pytest.LogCaptureFixture) -> None:
    """A defined metric emits by itself; wrong dimensions and negative counts are logged."""
    metrics = MetricsCacheYamlImpl(model_name="m")
    metric = metrics.add_metric_to_cache("words", "count", ["City"])
    assert metrics.drain() == []
    assert metrics.get_metric("words") is metric
    assert metrics.cache_keys() == ["counter:words"]
    metric.add_or_update(2, ["Ulm"], "id1")
    with caplog.at_level(logging.ERROR):
        metric.add_or_update(2, [])
        metric.add_or_update(-2, ["Ulm"])
    assert len(caplog.records) == 2
    metric.update(3, "id2", [Dimension("Land", "DE")])
    samples = [(s.value, s.dimensions, s.request_id) for s in metrics.drain()]
    assert samples == [(2, (("City", "Ulm"),), "id1"), (3, (("Land", "DE"),), "id2")]
    with pytest.raises(MetricsCacheKeyError, match="no gauge named 'words'"):
        metrics.get_metric("words", MetricTypes.GAUGE)
    with pytest.raises(MetricsCacheTypeError):
        metrics.add_metric_to_cache("x", "count", [], "counter")  # type: ignore[arg-type]  # wrong on purpose


def test_metrics_store() -> None:
    """The older interface adds up counters per request and prints its entries."""
    store = MetricsStore({0: "a", 1: "b"}, "m")
    store.add_counter("c", 1, idx=0)
    store.add_counter("c", 2, idx=0)
    store.add_time("t", 1.5)
    store.add_size("s", 1, unit="GB")
    store.add_percent("p", 5)
    store.add_error("e", 1)
    store.add_metric("g", 7, "files", idx=1)
    assert [(m.name, m.value, m.request_id) for m in store.store] == [
        ("c", 3, "a"),
        ("t", 1.5, "a,b"),
        ("s", 1, "a,b"),
        ("p", 5, "a,b"),
        ("e", 1, None),
        ("g", 7, "b"),
    ]
    assert json.loads(json.dumps(store.store[0].to_dict()["Value"])) == 3
    assert str(store.store[0]).startswith("c.Count:3|#ModelName:m,Level:Model|#hostname:")
    collector = MetricsCacheYamlImpl(model_name="m")
    feed_metrics_to(collector)
    emit_metrics(store.store)
    reported = [(s.name, s.value, s.unit, s.metric_type.value) for s in collector.drain()]
    assert reported[:2] == [("c", 3, "Count", "counter"), ("t", 1.5, "Milliseconds", "gauge")]
    assert len(reported) == 6
    for call in (store.add_time, store.add_size):
        with pytest.raises(ValueError, match="unit"):
            call("x", 1, unit="furlong")


def test_mock_context(tmp_path: Path) -> None:
    """A handler's own tests get a manifest, properties, metrics and configuration."""
    (tmp_path / "c.yaml").write_text("handler: {profile: true}")
    mock = MockContext(model_pt_file=None, model_dir=str(tmp_path), model_yaml_config_file="c.yaml")
    assert mock.manifest == {"model": {"modelFile": "model.py"}}
    assert mock.system_properties["model_dir"] == str(tmp_path)
    assert mock.model_yaml_config == {"handler": {"profile": True}}
    mock.metrics.add_time("t", 1)
    mock.explain = True
    assert [mock.get_request_header(idx, "explain") for idx in (0, 1)] == [False, True]


def test_metrics_of_a_file(tmp_path: Path) -> None:
    """A collector of a handler's unit test reads a metrics.yaml itself, with TorchServe's errors."""
    file = tmp_path / "metrics.yaml"
    file.write_text("model_metrics: {gauge: [{name: A, unit: ms, dimensions: [Level]}]}")
    metrics = MetricsCacheYamlImpl(config_file_path=str(file))
    metrics.initialize_cache()
    assert metrics.cache_keys() == ["gauge:A"]
    metric = metrics.get_metric("A", MetricTypes.GAUGE)
    assert (metric.unit, metric.dimension_names) == ("Milliseconds", ["Level"])
    with pytest.raises(MetricsCacheIOError, match="does not exist"):
        MetricsCacheYamlImpl(str(tmp_path / "none.yaml"))
    for text, error in (
        ("a: [", MetricsCachePyYamlError),
        ("ts_metrics: {}", MetricsCacheKeyError),
        ("model_metrics: {}", MetricsCacheValueError),
        ("model_metrics: {sums: []}", MetricsCacheKeyError),
        ("model_metrics: {gauge: [{name: A}]}", MetricsCacheKeyError),
    ):
        file.write_text(text)
        with pytest.raises(error):
            MetricsCacheYamlImpl(str(file)).initialize_cache()


def test_readings_of_the_machine(caplog: pytest.LogCaptureFixture) -> None:
    """What TorchServe's helper process printed, for scripts that call it."""
    with caplog.at_level(logging.INFO):
        collect_all(None, 0)
        check_process_mem_usage(io.StringIO(f"{os.getpid()},99999999\n"))
    assert any(
        line.startswith("MemoryUsed.Megabytes:") and "|#Level:Host|#hostname:" in line
        for line in caplog.messages
    )
    memory = next(line for line in caplog.messages if line.startswith(f"{os.getpid()}:"))
    assert int(memory.partition(":")[2]) > 1024**2
    assert caplog.messages[-1] == "99999999:0"
