"""What an archive says of itself: its manifest, its model-config.yaml, its requirements."""

import importlib.metadata
import re
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from flambeau.archive.manifest import MANIFEST_PATH, Manifest
from flambeau.archive.yaml_config import read_yaml
from flambeau.doctor.findings import Finding, Severity
from flambeau.errors import ArchiveError
from flambeau.serving.model_yaml import ModelYaml, check_model_yaml

KNOWN_DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "sklearn": "scikit-learn",
    "skimage": "scikit-image",
    "yaml": "pyyaml",
    "bs4": "beautifulsoup4",
    "sentence_transformers": "sentence-transformers",
    "google": "protobuf",
    "dateutil": "python-dateutil",
    "Levenshtein": "levenshtein",
    "faiss": "faiss-cpu",
    "lru": "lru-dict",
    **{
        name: name
        for name in (
            *("accelerate", "captum", "diffusers", "ftfy", "gensim", "nltk", "numba", "onnx"),
            *("onnxruntime", "optimum", "pandas", "peft", "psutil", "requests", "sacremoses"),
            *("scipy", "sentencepiece", "spacy", "torchaudio", "torchvision", "xgboost"),
        )
    },
}
"""Which distribution brings a module, where that is known for sure."""

_OURS = ("torch", "transformers", "tokenizers", "numpy", "huggingface-hub", "safetensors")
_COMMENT = re.compile(r"(^|\s)#.*$")


def distribution_of(module: str) -> str:
    """The distribution that most likely brings a top-level module."""
    return canonicalize_name(KNOWN_DISTRIBUTIONS.get(module, module))


def check_manifest(manifest: Manifest, model_dir: Path) -> list[Finding]:
    """Findings on a manifest that could be read."""
    where = MANIFEST_PATH.as_posix()
    if not (model_dir / MANIFEST_PATH).is_file():
        return [
            Finding(
                "warning",
                "no-manifest",
                "",
                "There is no manifest: the model is named after the file, and its handler must be"
                " given when it is registered.",
                "Pack it again with torch-model-archiver.",
            )
        ]
    findings = []
    if not manifest.model.model_name:
        what = "The manifest names no model: the file's name is taken."
        findings.append(Finding("warning", "manifest", where, what))
    if manifest.runtime == "LSP":
        findings.append(
            Finding(
                "error",
                "runtime",
                where,
                "The runtime LSP is TorchServe's C++ workers, which Flambeau does not have.",
                "Pack the model with a Python handler.",
            )
        )
    if manifest.model.envelope:
        what = "The manifest's envelope has no effect: service_envelope of the server decides."
        findings.append(Finding("note", "manifest", where, what))
    return findings


def check_yaml(
    config_file: str, model_dir: Path
) -> tuple[dict[str, object], ModelYaml, list[Finding]]:
    """The archive's yaml as a document and as the server's keys, and findings on it."""
    if not config_file:
        found = sorted(path.name for path in model_dir.glob("model-config.y*ml"))
        notes = [
            Finding(
                "warning",
                "yaml-unused",
                name,
                "The manifest does not name this file, so that it has no effect.",
                "Pack the archive again with --config-file.",
            )
            for name in found
        ]
        return {}, ModelYaml(), notes
    try:
        document = read_yaml(model_dir / config_file)
    except ArchiveError as error:
        return {}, ModelYaml(), [Finding("error", "yaml", config_file, f"{error}.")]
    keys, warnings = check_model_yaml(document)
    findings = [Finding("warning", "yaml", config_file, f"{text}.") for text in warnings]
    findings += [
        Finding(
            "warning",
            "parallel",
            config_file,
            f"{key} asks for workers of several processes.",
            "docs/migrating.md says what of this is supported.",
        )
        for key in ("torchrun", "parallelType")
        if document.get(key)
    ]
    return document, keys, findings


def check_requirements(name: str, model_dir: Path) -> tuple[list[str], list[Finding]]:
    """The distributions that the requirements file brings, and findings on it."""
    if not name:
        return [], []
    try:
        lines = (model_dir / name).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return [], [Finding("error", "requirements", name, f"It cannot be read: {error}.")]
    brought: list[str] = []
    findings: list[Finding] = []
    lacking: list[str] = []
    for number, line in enumerate(lines, 1):
        text = _COMMENT.sub("", line).strip()
        if not text:
            continue
        requirement = _requirement(text)
        if requirement is None:
            continue
        distribution = canonicalize_name(requirement.name)
        brought.append(distribution)
        installed = _version(distribution)
        if installed is None:
            lacking.append(text)
        elif not requirement.specifier.contains(installed, prereleases=True):
            severity: Severity = "error" if distribution in _OURS else "warning"
            findings.append(
                Finding(
                    severity,
                    "requirements",
                    f"{name}:{number}",
                    f"{text} does not admit the installed {distribution} {installed}.",
                    "Loosen the pin if the code works with it; a model with useVenv: true gets an"
                    " environment of its own.",
                )
            )
    if lacking:
        findings.append(
            Finding(
                "warning",
                "requirements",
                name,
                f"Not installed here: {', '.join(lacking)}.",
                "Set install_py_dep_per_model=true in config.properties, or pip install them beside"
                " Flambeau.",
            )
        )
    return brought, findings


def _requirement(text: str) -> Requirement | None:
    """A line of a requirements file; None for options and addresses, of which nothing is claimed."""
    try:
        return Requirement(text.partition(" --")[0])
    except InvalidRequirement:
        return None


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
