"""Which code will answer an archive's requests, and whether it can."""

import ast
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import msgspec

from flambeau.archive.contents import TOKENIZER_FILES, is_transformers_handler
from flambeau.archive.graphs import GRAPH_SUFFIXES, Form, any_graph, find_graph
from flambeau.archive.manifest import Manifest
from flambeau.doctor.findings import Finding
from flambeau.doctor.sources import Source, dotted
from flambeau.doctor.weights import kind_of
from flambeau.errors import ConfigError
from flambeau.handlers.choice import Choice, choose
from flambeau.handlers.entry import BUILT_IN, handler_file, parse_handler
from flambeau.handlers.labels import read_labels
from flambeau.handlers.settings import HandlerSettings, read_json_object, read_settings
from flambeau.tasks import available

_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json")
_NEEDED = {
    **dict.fromkeys(
        ("vision_handler", "image_classifier", "image_segmenter", "object_detector"),
        ("PIL", "pillow"),
    ),
    "dali_image_classifier": ("nvidia.dali", "nvidia-dali-cuda120"),
    "vllm_handler": ("vllm", "vllm"),
    "trt_llm_handler": ("tensorrt_llm", "tensorrt_llm"),
}
"""The package that a built-in handler imports, and the distribution that brings it."""
_NAMED_IN_YAML = frozenset({"vllm_handler", "trt_llm_handler"})
"""Handlers whose model is named in model-config.yaml."""
_TEXT = frozenset({"text_handler", "text_classifier"})


class Examined(msgspec.Struct, frozen=True):
    """Who answers: `native` or not, `served` in words, the handler's own file and function if any."""

    native: bool
    served: str
    file: str = ""
    function: str = "handle"
    findings: tuple[Finding, ...] = ()


def examine_handler(
    manifest: Manifest, yaml: Mapping[str, object], model_dir: Path, sources: list[Source]
) -> Examined:
    """Find the handler as a worker would, without importing it."""
    handler = manifest.model.handler
    if not handler:
        what = "The manifest names no handler."
        advice = "Pack it again with --handler, or give handler= when registering."
        return Examined(False, "nobody", findings=(Finding("error", "handler", "", what, advice),))
    name = parse_handler(handler)
    try:
        choice = choose(name, model_dir, yaml)
    except ConfigError as error:
        return Examined(False, "nobody", findings=(_setting(error),))
    if choice.native:
        return _native(choice, manifest, yaml, model_dir)
    path = handler_file(name, model_dir)
    if path is None:
        return _without_file(handler, name.module, manifest, model_dir)
    file = path.relative_to(model_dir).as_posix() if path.is_relative_to(model_dir) else path.name
    findings = _entry(file, name.function, sources)
    findings += _tokenizer_of_own(path, model_dir)
    if manifest.model.model_file:
        findings += _model_file(manifest.model.model_file, sources)
    served = f"the archive's own {file}"
    return Examined(False, served, file, name.function or "handle", tuple(findings))


def _native(
    choice: Choice, manifest: Manifest, yaml: Mapping[str, object], model_dir: Path
) -> Examined:
    """Findings that only matter where Flambeau's own Transformers handler answers."""
    findings: list[Finding] = []
    try:
        settings = read_settings(model_dir, yaml)
        config = read_json_object(model_dir / "config.json")
        labels = read_labels(model_dir, config)
    except ConfigError as error:
        return Examined(True, choice.told, findings=(_setting(error),))
    if settings.task is None:
        what = "The archive does not say what its model is for."
        advice = f"Set task in the handler section: {', '.join(available())}."
        findings.append(Finding("error", "task", "", what, advice))
    findings += _native_files(settings, config, manifest, model_dir)
    findings += _graph(settings, manifest, model_dir)
    if labels is None and settings.task in ("text-classification", "token-classification"):
        what = "Nothing names the model's labels: answers say LABEL_0, LABEL_1, …"
        findings.append(Finding("warning", "labels", "", what, "Add index_to_name.json."))
    if settings.without_effect:
        what = f"Settings without effect: {', '.join(settings.without_effect)}."
        findings.append(Finding("note", "settings", "", what))
    return Examined(True, choice.told, findings=tuple(findings))


def _native_files(
    settings: HandlerSettings, config: Mapping[str, object], manifest: Manifest, model_dir: Path
) -> list[Finding]:
    findings: list[Finding] = []
    serialized = manifest.model.serialized_file
    scripted = bool(serialized) and kind_of(model_dir / serialized) == "torchscript"
    if not config and not scripted:
        what = "There is no config.json, which says what kind of model the weights are."
        advice = "Pack it with --extra-files config.json."
        findings.append(Finding("error", "config", "", what, advice))
    if config.get("auto_map"):
        what = "The model brings Python code of its own (auto_map), which the native handler never runs."
        advice = "Use a model of Transformers' own, or handler_mode: as-is."
        findings.append(Finding("error", "remote-code", "config.json", what, advice))
    weights = any((model_dir / name).is_file() for name in _WEIGHTS) or any_graph(model_dir)
    if not serialized and not weights:
        what = "There are no weights in the archive."
        findings.append(Finding("error", "weights", "", what, "Pack it with --serialized-file."))
    if not _has_tokenizer(model_dir):
        known = settings.model_name
        findings.append(
            Finding(
                "warning" if known else "error",
                "tokenizer",
                "",
                "There are no tokenizer files"
                + (f": {known}'s are fetched from the hub at the first start." if known else "."),
                "Pack tokenizer.json and tokenizer_config.json with --extra-files.",
            )
        )
    return findings


def _graph(settings: HandlerSettings, manifest: Manifest, model_dir: Path) -> Iterator[Finding]:
    """What an engine for exported graphs needs, and does not find."""
    match settings.engine:
        case "onnx" | "openvino" as engine:
            pass
        case _:
            return
    package = {"onnx": "onnxruntime", "openvino": "openvino"}[engine]
    if not _is_installed(package):
        what = f"engine: {engine} needs {package}, which is not installed here."
        yield Finding("error", "import", "", what, f"pip install 'flambeau[{engine}]'.")
    precision = None if settings.precision == "auto" else settings.precision
    named = precision is None and Path(manifest.model.serialized_file).suffix in GRAPH_SUFFIXES
    if not named and find_graph(model_dir, Form(engine, precision or "fp32")) is None:
        what = f"The archive has no {precision or 'fp32'} graph for engine: {engine}."
        advice = f"Pack it with flambeau pack --engine {engine} --precision {precision or 'fp32'}."
        yield Finding("error", "weights", "", what, advice)


def _without_file(handler: str, module: str, manifest: Manifest, model_dir: Path) -> Examined:
    if module in BUILT_IN:
        findings = tuple(_built_in(module, manifest, model_dir))
        return Examined(False, f"the built-in {module}", findings=findings)
    finding = Finding(
        "error",
        "handler",
        "",
        f"The handler {handler} is no file of the archive, and not built in"
        f" ({', '.join(sorted(BUILT_IN))}).",
        "Pack its file with --handler, or choose another.",
    )
    return Examined(False, "nobody", findings=(finding,))


def _built_in(module: str, manifest: Manifest, model_dir: Path) -> Iterator[Finding]:
    """What one of TorchServe's own handlers needs, and does not find."""
    package, distribution = _NEEDED.get(module, ("", ""))
    brought = bool(manifest.model.requirements_file)  # perhaps: what it brings is not looked up
    if package and not brought and not _is_installed(package):
        what = f"The built-in {module} needs {package}, which is not installed here."
        yield Finding("error", "import", "", what, f"pip install {distribution} beside Flambeau.")
    if module in _NAMED_IN_YAML:
        return
    if not manifest.model.serialized_file and not manifest.model.model_file:
        what = f"The built-in {module} has no model to load."
        yield Finding("error", "weights", "", what, "Pack it with --serialized-file.")
    vocabulary = manifest.model.source_vocab or "source_vocab.pt"
    if module in _TEXT and not (model_dir / vocabulary).is_file():
        what = f"The built-in {module} needs a vocabulary, and there is no {vocabulary}."
        yield Finding("error", "vocabulary", "", what, "Pack it with --extra-files.")


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of the package above it
        return False


def _entry(file: str, function: str, sources: list[Source]) -> list[Finding]:
    """Whether the file has one entry point: a function, or one class that handles requests."""
    source = next((each for each in sources if each.file == file), None)
    if source is None:
        return []  # it could not be parsed, which is told already
    functions = {node.name for node in source.tree.body if isinstance(node, ast.FunctionDef)}
    classes = [node for node in source.tree.body if isinstance(node, ast.ClassDef)]
    wanted = function or "handle"
    if wanted in functions or wanted in {each.name for each in classes}:
        return []
    if function:
        what = f"{file} has no {function}; a class is looked for."
        found = [Finding("warning", "handler", file, what)]
    else:
        found = []
    able = [each for each in classes if _may_handle(each)]
    bases = {dotted(base) for each in able for base in each.bases}
    able = [each for each in able if each.name not in bases]
    if len(able) > 1:
        names = ", ".join(each.name for each in able)
        what = f"Several classes could be the handler: {names}."
        advice = f"Say which: --handler {file}:{able[-1].name}"
        found.append(Finding("error", "handler", source.at(able[-1]), what, advice))
    elif not able and not _is_dynamic(source.tree):
        what = f"There is neither a function {wanted}(data, context) nor a handler class."
        found.append(Finding("error", "handler", file, what, "Add one."))
    elif len(classes) > 1:
        what = "TorchServe refuses a handler file with several classes; here only handlers count."
        found.append(Finding("note", "handler", source.at(able[0]) if able else file, what))
    return found


def _may_handle(node: ast.ClassDef) -> bool:
    methods = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
    inherits = any(dotted(base).lower().endswith("handler") for base in node.bases)
    return inherits or {"initialize", "handle"} <= methods


def _is_dynamic(tree: ast.Module) -> bool:
    """Whether the entry point may come from elsewhere, by import or assignment."""
    return any(isinstance(node, ast.ImportFrom | ast.Assign) for node in tree.body)


def _model_file(name: str, sources: list[Source]) -> list[Finding]:
    source = next((each for each in sources if each.file == name), None)
    if source is None:
        return []
    classes = [node.name for node in source.tree.body if isinstance(node, ast.ClassDef)]
    if len(classes) == 1:
        return []
    return [
        Finding(
            "warning",
            "model-file",
            name,
            f"An eager model's file must define one class, and this has {len(classes)}"
            f" ({', '.join(classes) or 'none'}).",
            "Leave the model's class alone in it, unless the handler imports the file itself.",
        )
    ]


def _tokenizer_of_own(path: Path, model_dir: Path) -> list[Finding]:
    source = path.read_text("utf-8", errors="replace")
    if not is_transformers_handler(source) or "okenizer" not in source or _has_tokenizer(model_dir):
        return []
    return [
        Finding(
            "warning",
            "tokenizer",
            path.name,
            "The handler uses a tokenizer, and there are no tokenizer files in the archive.",
            "Pack them with --extra-files; else each start needs the hub or its cache.",
        )
    ]


def _has_tokenizer(model_dir: Path) -> bool:
    files = [name for name in TOKENIZER_FILES if "config" not in name and "map" not in name]
    return any((model_dir / name).is_file() for name in files) or any(model_dir.glob("*.model"))


def _setting(error: ConfigError) -> Finding:
    return Finding("error", "settings", "", str(error))
