"""Helpers that handlers import from TorchServe's `ts.utils.util` (contract.md section 9.7)."""

import enum
import functools
import inspect
import json
import logging
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

import yaml
from typing_extensions import override

__all__ = [
    "CLEANUP_REGEX",
    "PT2Backend",
    "PredictionException",
    "check_valid_pt2_backend",
    "deprecated",
    "get_yaml_config",
    "list_classes_from_module",
    "load_label_mapping",
    "map_class_to_label",
]

_logger = logging.getLogger(__name__)
_P = ParamSpec("_P")
_R = TypeVar("_R")

CLEANUP_REGEX = re.compile(r"<.*?>|&(?:[a-z0-9]+|#[0-9]{1,6}|#x[0-9a-f]{1,6});")
"""Matches HTML tags and entities."""


class PredictionException(Exception):  # noqa: N818 - the name is TorchServe's
    """A handler's own error answer: `error_code` becomes the HTTP status, `message` the text."""

    def __init__(self, message: str, error_code: int = 500) -> None:
        super().__init__(message)
        self.message = message
        self.error_code = error_code

    @override
    def __str__(self) -> str:
        return f"{self.message} : {self.error_code}"


class PT2Backend(str, enum.Enum):  # noqa: UP042 - format() of a member differs in StrEnum
    """The `torch.compile` backends that `model-config.yaml` may name."""

    EAGER = "eager"
    AOT_EAGER = "aot_eager"
    INDUCTOR = "inductor"
    NVFUSER = "nvfuser"
    AOT_NVFUSER = "aot_nvfuser"
    AOT_CUDAGRAPHS = "aot_cudagraphs"
    OFI = "ofi"
    FX2TRT = "fx2trt"
    ONNXRT = "onnxrt"
    IPEX = "ipex"
    TORCHXLA_TRACE_ONCE = "torchxla_trace_once"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"
    HPU_BACKEND = "hpu_backend"


def check_valid_pt2_backend(backend: str) -> bool:
    """Whether `backend` is a known `torch.compile` backend; logs a warning if not."""
    known = any(backend == member.value for member in PT2Backend)
    if not known:
        _logger.warning("%s is not a supported torch.compile backend.", backend)
    return known


def list_classes_from_module(
    module: ModuleType, parent_class: type | None = None
) -> list[type[Any]]:
    """The classes that `module` itself defines, by name; imported ones do not count.

    With `parent_class`, only its subclasses.
    """
    return [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if member.__module__ == module.__name__
        and (parent_class is None or issubclass(member, parent_class))
    ]


def get_yaml_config(yaml_file_path: str) -> Any:
    """The document in a YAML file, read with the safe loader."""
    with Path(yaml_file_path).open(encoding="utf-8") as file:
        return yaml.safe_load(file)


def load_label_mapping(mapping_file_path: str) -> dict[str, str] | None:
    """The labels of an `index_to_name.json`: class index (as text) to label.

    A list counts by its last element; `{"object_type_names": [...]}` is numbered. A missing file
    is logged and gives None; anything else raises TypeError.
    """
    path = Path(mapping_file_path)
    if not path.is_file():
        _logger.warning("%s is missing: answers will carry no class names.", path.name)
        return None
    mapping = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(mapping, dict):
        raise TypeError(f'{path.name} must be a JSON object of the form {{"0": "label"}}.')
    names = mapping.get("object_type_names")
    if isinstance(names, list):
        return {str(index): name for index, name in enumerate(names)}
    labels: dict[str, str] = {}
    for index, value in mapping.items():
        label = value[-1] if isinstance(value, list) and value else value
        if not isinstance(label, str):
            raise TypeError(f"{path.name}: the label of {index!r} must be text or a list of text.")
        labels[index] = label
    return labels


def map_class_to_label(
    probs: list[Sequence[float]],
    mapping: dict[str, str] | None = None,
    lbl_classes: Sequence[Sequence[int]] | None = None,
) -> list[dict[str, float]]:
    """One dict label → probability per row of `probs` ([rows][classes]).

    `lbl_classes` names the class of each entry where a row is not in class order (a top-k);
    without `mapping` a class is its number as text.
    """
    if not isinstance(probs, list):
        raise TypeError("probs must be a list: call .tolist() on a tensor first.")
    if mapping is not None and not isinstance(mapping, dict):
        raise TypeError("mapping must be a dict of class index (as text) to label.")
    if lbl_classes is None:
        lbl_classes = [range(len(row)) for row in probs]
    return [
        {
            str(cls) if mapping is None else mapping[str(cls)]: probability
            for cls, probability in zip(classes, row, strict=False)
        }
        for classes, row in zip(lbl_classes, probs, strict=False)
    ]


def deprecated(
    version: str, replacement: str = "", klass: type[Warning] = PendingDeprecationWarning
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Mark a function as deprecated since `version`: each call warns and names `replacement`."""

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        @functools.wraps(function)
        def warn_and_call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            message = f"{function.__name__} is deprecated in {version}; use {replacement}"
            warnings.warn(message, klass, stacklevel=2)
            return function(*args, **kwargs)

        return warn_and_call

    return decorate
