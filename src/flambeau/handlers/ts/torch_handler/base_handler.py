"""The base class that most handlers derive from (contract.md section 9.4)."""

import abc
import importlib
import importlib.util
import logging
import os
import pickle  # noqa: TID251 - its error class only: weights are loaded with weights_only=True
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function, tensorboard_trace_handler

from flambeau.errors import LoadError
from flambeau.handlers.ts.handler_utils.request_groups import answer_batch, one_by_one
from flambeau.handlers.ts.handler_utils.timer import timed
from flambeau.handlers.ts.torch_handler.compile_options import compile_options, wants_aot_export
from flambeau.handlers.ts.utils.util import list_classes_from_module, load_label_mapping

__all__ = [
    "IPEX_AVAILABLE",
    "ONNX_AVAILABLE",
    "PROFILER_AVAILABLE",
    "PT2_AVAILABLE",
    "XLA_AVAILABLE",
    "BaseHandler",
    "load_tensors",
    "setup_ort_session",
]

_logger = logging.getLogger(__name__)

# Handlers read these to know what they may use. IPEX is discontinued and never used.
PROFILER_AVAILABLE = True
PT2_AVAILABLE = True
IPEX_AVAILABLE = False
XLA_AVAILABLE = importlib.util.find_spec("torch_xla") is not None
ONNX_AVAILABLE = importlib.util.find_spec("onnxruntime") is not None


def setup_ort_session(model_pt_path: str, map_location: str | None) -> Any:
    """An ONNX Runtime session for the model file, on the GPU if `map_location` is "cuda"."""
    onnxruntime = importlib.import_module("onnxruntime")
    providers = ["CPUExecutionProvider"]
    if map_location == "cuda":
        providers.insert(0, "CUDAExecutionProvider")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return onnxruntime.InferenceSession(model_pt_path, sess_options=options, providers=providers)


class BaseHandler(abc.ABC):  # noqa: B024 - TorchServe's class is an ABC without abstract methods
    """Loads the archive's model and answers a batch in three steps that subclasses override."""

    def __init__(self) -> None:
        self.model: Any = None
        self.mapping: Any = None
        self.device: Any = None
        self.initialized = False
        self.context: Any = None
        self.model_pt_path: Any = None
        self.manifest: Any = None
        self.map_location: Any = None
        self.explain = False
        self.target: Any = 0
        self.profiler_args: dict[str, Any] = {}
        if torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= 8:
            torch.set_float32_matmul_precision("high")  # TF32 on Ampere and newer

    def initialize(self, context: Any) -> None:
        """Load the model that the manifest names, compile it if asked to, and read the labels.

        A `modelFile` is a Python file with one model class whose state dict is `serializedFile`;
        without it `serializedFile` is TorchScript (`.pt`), ONNX (`.onnx`) or an exported library
        (`.so`). Raises LoadError where there is nothing to load.
        """
        self.model_yaml_config = getattr(context, "model_yaml_config", None) or {}
        properties = context.system_properties
        model_dir: str = properties.get("model_dir")
        self.manifest = context.manifest
        self._choose_device(properties.get("gpu_id"))

        files = (self.manifest or {}).get("model", {})
        self.model_pt_path = None
        if files.get("serializedFile"):
            self.model_pt_path = os.path.join(model_dir, files["serializedFile"])
        if files.get("modelFile"):
            _logger.debug("Loading the model class in %s", files["modelFile"])
            self.model = self._load_pickled_model(model_dir, files["modelFile"], self.model_pt_path)
            self.model.to(self.device)
            self.model.eval()
        else:
            self.model = self._load_serialized(self.model_pt_path)
        self._compile()
        self.mapping = load_label_mapping(os.path.join(model_dir, "index_to_name.json"))
        self.initialized = True

    def _choose_device(self, gpu_id: int | str | None) -> None:
        """Set `device` and `map_location` for the GPU `gpu_id`, or for the CPU if it is None."""
        self.map_location = "cpu"
        if gpu_id is not None and torch.cuda.is_available():
            self.map_location = "cuda"
            self.device = torch.device(f"cuda:{gpu_id}")
        elif gpu_id is not None and torch.backends.mps.is_available():
            self.map_location = "mps"
            self.device = torch.device("mps")
        elif XLA_AVAILABLE:
            self.map_location = None
            self.device = importlib.import_module("torch_xla.core.xla_model").xla_device()
        else:
            self.device = torch.device("cpu")

    def _load_serialized(self, path: str | None) -> Any:
        """The model in a file that needs no model class."""
        if path is None:
            raise LoadError(
                "No model to load: the manifest names neither a serialized file nor a model file. "
                "Package one with --serialized-file or --model-file, or override initialize()."
            )
        if path.endswith(".pt"):
            model = self._load_torchscript_model(path)
            model.eval()
            return model
        if path.endswith(".onnx"):
            if not ONNX_AVAILABLE:
                raise LoadError(f"{Path(path).name} needs onnxruntime: pip install onnxruntime")
            return setup_ort_session(path, self.map_location)
        compiled = path.endswith(".so") and wants_aot_export(self.model_yaml_config)
        if compiled or path.endswith(".pt2"):
            return self._load_torch_export_aot_compile(path)
        raise LoadError(
            f"No model weights could be loaded from {Path(path).name}: without a model file it must "
            "be TorchScript (.pt), ONNX (.onnx), an AOTInductor package (.pt2), or a .so with "
            "pt2.export.aot_compile set."
        )

    def _load_torchscript_model(self, model_pt_path: str) -> Any:
        """The TorchScript module in a file, on `device`."""
        with (
            warnings.catch_warnings()
        ):  # TorchScript is deprecated; the archive has it all the same
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.load(model_pt_path, map_location=self.device)  # type: ignore[no-untyped-call]  # torch has no types for it

    def _load_torch_export_aot_compile(self, model_so_path: str) -> Any:
        """The callable in a library (.so) or package (.pt2) made by ahead-of-time export."""
        from torch._export import aot_load
        from torch._inductor import aoti_load_package

        if self.map_location == "cuda":
            torch.cuda.set_device(self.device)
        if model_so_path.endswith(".pt2"):
            return aoti_load_package(model_so_path)
        with warnings.catch_warnings():  # the form is deprecated; the archive has it all the same
            warnings.simplefilter("ignore")
            return aot_load(model_so_path, str(self.device))

    def _load_pickled_model(
        self, model_dir: str, model_file: str, model_pt_path: str | None
    ) -> Any:
        """An instance of the one class in `model_file`, with the state dict of `model_pt_path`."""
        path = Path(model_dir) / model_file
        if not path.is_file():
            raise LoadError(f"The manifest's model file {model_file!r} is not in the archive.")
        if model_dir not in sys.path:
            sys.path.insert(0, model_dir)
        module = importlib.import_module(path.stem)
        classes = list_classes_from_module(module)
        if len(classes) > 1:  # layers defined beside the model are not the model
            used = {base for cls in classes for base in cls.__mro__[1:]}
            classes = [cls for cls in classes if cls not in used]
        if len(classes) != 1:
            names = ", ".join(cls.__name__ for cls in classes) or "none"
            raise LoadError(
                f"{model_file} must define exactly one model class; it defines: {names}. "
                "Move the others to a file of their own and import them."
            )
        model = classes[0]()
        if model_pt_path:
            model.load_state_dict(load_tensors(model_pt_path, self.device))
        return model

    def _compile(self) -> None:
        """Compile the model as model-config.yaml asks; a failure is logged and ignored."""
        options = compile_options(self.model_yaml_config)
        if options is None:
            return
        shown = ", ".join(f"{key} {value}" for key, value in options.items())
        try:
            self.model = torch.compile(self.model, **options)
        except Exception as error:  # noqa: BLE001 - compiling is an optimisation
            _logger.warning("Compiling with %s failed; going on without: %s", shown, error)
        else:
            _logger.info("Compiled model with %s", shown)

    @timed
    def preprocess(self, data: Any) -> Any:
        """The rows of a batch as the model's input; here a tensor of them."""
        return torch.as_tensor(data, device=self.device)

    @timed
    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """The model's output for `data`."""
        with torch.inference_mode():
            return self.model(data.to(self.device), *args, **kwargs)

    @timed
    def postprocess(self, data: Any) -> Any:
        """The model's output as a list with one answer per row."""
        return data.tolist()

    def handle(self, data: Any, context: Any) -> Any:
        """Answer a batch: `data` is a list of rows (contract.md section 5.3), so is the result."""
        start = time.monotonic()
        self.context = context
        output = answer_batch(self, data, context, self._predict)
        elapsed_ms = round((time.monotonic() - start) * 1000, 2)
        context.metrics.add_time("HandlerTime", elapsed_ms, None, "ms")
        return output

    def _predict(self, data: Any) -> Any:
        """Predictions or explanations for rows that ask for the same.

        If our own `preprocess` fails on several requests, each is tried alone, so that a bad one
        harms none but itself. A subclass's may have changed state for some: it is not called twice.
        """
        try:
            prepared = self.preprocess(data)
        except Exception:
            ours = type(self).preprocess.__module__.startswith("flambeau.")
            answers = one_by_one(data, self.context, self._predict) if ours else None
            if answers is None:
                raise
            return answers
        if self._is_explain():
            return self.explain_handle(prepared, data)
        return self.postprocess(self.inference(prepared))

    def _infer_with_profiler(self, data: Any) -> tuple[Any, Any]:
        """(answers, profiler) of a batch that runs under torch.profiler.

        `profiler_args` are the profiler's arguments; traces go to `pytorch_profiler/<model>` in
        the folder for temporary files unless `on_trace_ready` is set.
        """
        arguments = self.profiler_args
        if not arguments:
            arguments["activities"] = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                arguments["activities"].append(ProfilerActivity.CUDA)
            arguments["record_shapes"] = True
        if "on_trace_ready" not in arguments:
            name = (self.manifest or {}).get("model", {}).get("modelName", "")
            folder = Path(tempfile.gettempdir()) / "pytorch_profiler" / name
            arguments["on_trace_ready"] = tensorboard_trace_handler(str(folder))
        with profile(**arguments) as profiler:
            with record_function("preprocess"):
                prepared = self.preprocess(data)
            if self._is_explain():
                with record_function("explain"):
                    output = self.explain_handle(prepared, data)
            else:
                with record_function("inference"):
                    output = self.inference(prepared)
                with record_function("postprocess"):
                    output = self.postprocess(output)
        _logger.info(profiler.key_averages().table(sort_by="cpu_time_total", row_limit=10))
        return output, profiler

    def explain_handle(self, data_preprocess: Any, raw_data: Any) -> Any:
        """Explanations by the subclass's `get_insights(data_preprocess, inputs, target)`.

        `inputs` and `target` come from the first row; the target is 0 unless the row has one.
        """
        inputs, target = None, 0
        row = raw_data[0]
        if isinstance(row, dict):
            inputs = row.get("data") or row.get("body")
            target = row.get("target") or 0
        get_insights = getattr(self, "get_insights", None)
        if get_insights is None:
            raise NotImplementedError(
                f"{type(self).__name__} cannot explain: define get_insights(data, inputs, target)"
            )
        return get_insights(data_preprocess, inputs, target)

    def describe_handle(self) -> Any:
        """What the model says of itself; None unless a subclass overrides it."""
        return None

    def get_device(self) -> Any:
        """The device that the model runs on."""
        return self.device

    def _is_explain(self) -> bool:
        """Whether the batch asks for explanations."""
        if self._flag("explain"):
            self.explain = True
            return True
        return False

    def _is_describe(self) -> bool:
        """Whether the batch asks for the model's description."""
        return self._flag("describe")

    def _flag(self, header: str) -> bool:
        """Whether the first request carries `header` with the value that the server sets."""
        return bool(self.context) and self.context.get_request_header(0, header) == "True"


def load_tensors(path: str, device: Any) -> Any:
    """The tensors and plain values in a file; LoadError if it holds code as well, or is none."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise LoadError(
            f"{Path(path).name} holds more than tensors, and loading it would run code. Save the "
            "weights with torch.save(model.state_dict(), …) and package them again, or load the "
            "file in your handler's initialize()."
        ) from error
