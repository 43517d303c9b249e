"""Finds the handler that an archive asks for and makes it ready (contract.md section 9.1)."""

import importlib
import importlib.util
import inspect
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from flambeau.errors import LoadError
from flambeau.handlers.ts.context import Context
from flambeau.handlers.ts.torch_handler.request_envelope.base import BaseEnvelope
from flambeau.handlers.ts.utils.util import list_classes_from_module

__all__ = [
    "BUILT_IN",
    "Entry",
    "HandlerName",
    "handler_file",
    "instance_entry",
    "load_entry",
    "parse_handler",
    "prepare_import_path",
    "wrap_in_envelope",
]

_logger = logging.getLogger(__name__)

EntryPoint = Callable[[Any, Context], Any]

_TORCH_HANDLER = "flambeau.handlers.ts.torch_handler"
BUILT_IN = {
    "transformers_handler": ("flambeau.handlers.native", "TransformersHandler"),
    **{
        name: (f"{_TORCH_HANDLER}.{name}", class_name)
        for name, class_name in (
            ("base_handler", "BaseHandler"),
            ("vision_handler", "VisionHandler"),
            ("image_classifier", "ImageClassifier"),
            ("image_segmenter", "ImageSegmenter"),
            ("object_detector", "ObjectDetector"),
            ("text_handler", "TextHandler"),
            ("text_classifier", "TextClassifier"),
            ("densenet_handler", "DenseNetHandler"),
            ("dali_image_classifier", "DALIImageClassifier"),
            ("vllm_handler", "VLLMHandler"),
            ("trt_llm_handler", "TRTLLMHandler"),
        )
    },
}
"""Handlers that need no file in the archive: module and class by name."""

_SHOWN_FILES = 20


class HandlerName(NamedTuple):
    """A handler string in its parts: `dir/my_file.py:entry` → ("dir", "my_file", "entry")."""

    directory: str
    module: str
    function: str


class Entry(NamedTuple):
    """A handler that is ready: `call(rows, context)` answers a batch.

    `instance` is the handler object, or None for a function entry point.
    """

    call: EntryPoint
    instance: Any = None


def parse_handler(handler: str) -> HandlerName:
    """The parts of a handler string in any of its accepted forms."""
    target, _, function = handler.strip().partition(":")
    directory, _, name = target.rpartition("/")
    if target.startswith("/") and not directory:
        directory = "/"
    return HandlerName(directory, name.removesuffix(".py"), function)


def handler_file(handler: HandlerName, model_dir: Path) -> Path | None:
    """The file that holds the handler: in the archive, or at the directory that was given."""
    name = handler.module.replace(".", "/")
    folders = [model_dir]
    if handler.directory:
        folders.append(model_dir / handler.directory)  # an absolute directory stays as it is
    for folder in folders:
        for candidate in (folder / f"{name}.py", folder / name / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


def prepare_import_path(handler: HandlerName, model_dir: Path) -> None:
    """Put the archive first, and the handler's own directory second, on the import path.

    Also on that of Python processes which the handler starts (contract.md section 9.2).
    """
    folders = [str(model_dir)]
    if handler.directory:
        folders.append(str(model_dir / handler.directory))
    for folder in reversed(folders):
        if folder in sys.path:
            sys.path.remove(folder)
        sys.path.insert(0, folder)
    inherited = os.environ.get("PYTHONPATH")  # noqa: TID251  # for the handler's children
    paths = [*folders, *([inherited] if inherited else [])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)  # noqa: TID251


def load_entry(handler: str, context: Context) -> Entry:
    """The initialised entry point that `handler` names; `ts` must be importable.

    A function is called once with `data=None`, a class is instantiated and its `initialize` runs.
    Raises LoadError where there is no such handler or no entry point in it; what the handler's own
    code raises goes through untouched.
    """
    name = parse_handler(handler)
    if not name.module:
        raise LoadError(
            "The model has no handler: name one with --handler when packaging it, or with "
            "`handler` when registering it."
        )
    module = _import_handler(name, Path(context.system_properties["model_dir"]))
    function = getattr(module, name.function or "handle", None)
    if callable(function) and not inspect.isclass(function):
        begun = function(None, context)
        if inspect.iscoroutine(begun):
            begun.close()  # an asynchronous handler has no call at load, as in TorchServe
        return Entry(function)
    if function is not None and inspect.isclass(function):
        return instance_entry(function(), context)
    return instance_entry(_handler_class(module, name)(), context)


def instance_entry(instance: Any, context: Context) -> Entry:
    """The entry of a handler object after its `initialize(context)`."""
    for method in ("initialize", "handle"):
        if not callable(getattr(instance, method, None)):
            raise LoadError(f"The handler class {type(instance).__name__} has no {method}().")
    instance.initialize(context)
    return Entry(instance.handle, instance)


def wrap_in_envelope(entry: Entry, envelope: str) -> Entry:
    """`entry` behind the service envelope of that name (contract.md section 9.6)."""
    package = "flambeau.handlers.ts.torch_handler.request_envelope"
    if envelope not in ("body", "json", "kserve", "kservev2"):
        raise LoadError(
            f"There is no service envelope {envelope!r}: choose body, json, kserve or kservev2."
        )
    module = importlib.import_module(f"{package}.{envelope}")
    wrapper: type[BaseEnvelope] = list_classes_from_module(module, BaseEnvelope)[0]
    return Entry(wrapper(entry.call).handle, entry.instance)


def _import_handler(name: HandlerName, model_dir: Path) -> ModuleType:
    """The handler's module: a file of the archive, a built-in one, or one on the import path."""
    file = handler_file(name, model_dir)
    if file is not None:
        return _import_file(name.module, file)
    if name.module in BUILT_IN and not name.directory:
        return importlib.import_module(BUILT_IN[name.module][0])
    try:
        return importlib.import_module(name.module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing != name.module and not name.module.startswith(f"{missing}."):
            raise  # the handler exists, and something that it imports does not
        raise LoadError(_not_found(name, model_dir)) from error


def _import_file(module_name: str, file: Path) -> ModuleType:
    """Import `file` as `module_name`, also where another module of that name is loaded already."""
    loaded = sys.modules.get(module_name)
    if loaded is not None and getattr(loaded, "__file__", None) == str(file):
        return loaded
    if "." in module_name or file.name == "__init__.py":
        return importlib.import_module(module_name)
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise LoadError(f"{file.name} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _handler_class(module: ModuleType, name: HandlerName) -> type[Any]:
    """The class in `module` that handles requests; helper classes beside it do not count."""
    if name.module in BUILT_IN and module.__name__ == BUILT_IN[name.module][0]:
        built_in: type[Any] = getattr(module, BUILT_IN[name.module][1])
        return built_in
    if name.function:
        _logger.warning("%s has no %s; looking for a class.", name.module, name.function)
    defined = list_classes_from_module(module)
    able = [cls for cls in defined if callable(getattr(cls, "initialize", None))]
    able = [cls for cls in able if not inspect.isabstract(cls)]
    both = [cls for cls in able if hasattr(cls, "handle")]
    candidates = both or able  # `handle` may be set by the constructor
    bases = {base for cls in candidates for base in cls.__mro__[1:]}
    candidates = [cls for cls in candidates if cls not in bases]
    if len(candidates) == 1:
        return candidates[0]
    entry = f"a function {name.function or 'handle'}(data, context)"
    if candidates:
        names = [cls.__name__ for cls in candidates]
        raise LoadError(
            f"{name.module}.py has more than one handler class: {', '.join(names)}. Say which one "
            f"with the handler {name.module}.py:{names[0]}"
        )
    seen = ", ".join(cls.__name__ for cls in defined) or "none"
    raise LoadError(
        f"{name.module}.py has neither {entry} nor a class with initialize(context) and "
        f"handle(data, context). Classes defined in it: {seen}."
    )


def _not_found(name: HandlerName, model_dir: Path) -> str:
    """Says which file was looked for and what there is instead."""
    looked_for = f"{name.module.replace('.', '/')}.py"
    where = "the archive" + (f" or in {name.directory}" if name.directory else "")
    files = sorted(
        str(path.relative_to(model_dir))
        for path in model_dir.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )
    shown = ", ".join(files[:_SHOWN_FILES]) or "no files"
    if len(files) > _SHOWN_FILES:
        shown += f" and {len(files) - _SHOWN_FILES} more"
    return (
        f"No handler {name.module!r}: there is no {looked_for} in {where}, and it is not built in "
        f"({', '.join(BUILT_IN)}). The archive contains: {shown}."
    )
