"""Which imports of an archive's code will not resolve in this environment."""

import ast
import functools
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import msgspec

from flambeau.doctor.findings import Finding, Severity
from flambeau.doctor.settings import KNOWN_DISTRIBUTIONS, distribution_of
from flambeau.doctor.sources import Source, dotted, parse

_TS = Path(__file__).resolve().parents[1] / "handlers" / "ts"
"""Where TorchServe's import surface for handlers lies."""

_GUARDS = frozenset({"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})
_PROBE_SECONDS = 120
_LIST = "import json, transformers; print(json.dumps(dir(transformers)))"
_PROBE = """
import json, sys, transformers
def has(name):
    try:
        return hasattr(transformers, name)
    except Exception:
        return True
print(json.dumps([name for name in sys.argv[1:] if not has(name)]))
"""


class _Import(msgspec.Struct, frozen=True):
    """One module that is imported, the names taken from it, and whether a failure is caught."""

    module: str
    names: tuple[str, ...]
    where: str
    guarded: bool


def check_imports(sources: list[Source], model_dir: Path, required: Iterable[str]) -> list[Finding]:
    """Findings on every import; `required` are the distributions that the requirements bring."""
    own = {path.stem if path.suffix == ".py" else path.name for path in model_dir.iterdir()}
    brought = set(required)
    findings: list[Finding] = []
    transformers: dict[str, _Import] = {}
    told: set[str] = set()  # one finding for a package that is not there at all
    for one in (found for source in sources for found in _imports(source)):
        root = one.module.partition(".")[0]
        if root in own or root in sys.stdlib_module_names:
            continue
        if root == "ts":
            findings += _check_ts(one)
        elif not _exists(one.module):
            if root not in told:
                findings.append(_missing(one, root, brought))
            if not _exists(root) and not one.guarded:
                told.add(root)
        elif one.module == "transformers":
            transformers |= {name: one for name in one.names if name not in transformers}
    for source in sources:
        transformers |= _attributes(source)
    for name in _not_in_transformers(sorted(transformers)):
        findings.append(_removed(name, transformers[name]))
    return findings


def _imports(source: Source) -> Iterator[_Import]:
    guarded = {id(node) for node in _guarded(source.tree)}
    for node in ast.walk(source.tree):
        caught = id(node) in guarded
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield _Import(alias.name, (), source.at(node), caught)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = tuple(alias.name for alias in node.names if alias.name != "*")
            yield _Import(node.module, names, source.at(node), caught)


def _guarded(tree: ast.Module) -> Iterator[ast.AST]:
    """Nodes of `try` blocks that catch a failing import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Try) and any(_catches(handler) for handler in node.handlers):
            for statement in node.body:
                yield from ast.walk(statement)


def _catches(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or dotted(kind) in _GUARDS for kind in kinds)


def _attributes(source: Source) -> dict[str, _Import]:
    """Names that are read as `transformers.Name`."""
    return {
        node.attr: _Import("transformers", (node.attr,), source.at(node), guarded=False)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute) and dotted(node.value) == "transformers"
    }


def _exists(module: str) -> bool:
    """Whether a module is there, told from the files alone: nothing is imported."""
    root, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(root)
    except (ImportError, ValueError):
        return False
    if spec is None:
        return False
    folders = [Path(place) for place in spec.submodule_search_locations or ()]
    if rest and not folders:
        return _is_dynamic(root)
    for part in rest:
        if any(_module_file(folder, part) for folder in folders):
            return True
        folders = [folder / part for folder in folders if (folder / part).is_dir()]
        if not folders:
            return _is_dynamic(root)
    return True


def _module_file(folder: Path, name: str) -> bool:
    return any((folder / f"{name}{suffix}").is_file() for suffix in (".py", *EXTENSION_SUFFIXES))


def _is_dynamic(root: str) -> bool:
    """Packages whose modules need not be files (`six.moves`, `os.path`): nothing is claimed."""
    return root not in {"transformers", "torch", "torchvision", "torchtext", "tokenizers"}


def _missing(one: _Import, root: str, brought: set[str]) -> Finding:
    distribution = distribution_of(root)
    if distribution in brought:
        return Finding(
            "warning",
            "import-from-requirements",
            one.where,
            f"{one.module} is not installed here; the archive's requirements bring it.",
            "Set install_py_dep_per_model=true in config.properties, or pip install"
            f" {distribution} beside Flambeau.",
        )
    if one.guarded:
        return Finding(
            "note",
            "optional-import",
            one.where,
            f"{one.module} is not installed here; the code is made to go on without it.",
        )
    if root in {"transformers", "torch"} and _exists(root):
        return Finding(
            "error",
            "import",
            one.where,
            f"The module {one.module} is not in the installed {root}.",
            f"Import the name from {root} itself, or from where it lives now.",
        )
    return Finding(
        "error",
        "import",
        one.where,
        f"{one.module} is not installed here, and the archive's requirements do not bring it.",
        f"If it is a package: {_install(root)}, and name it in the requirements file. If it is a file"
        " of your own: pack it with --extra-files.",
    )


def _install(root: str) -> str:
    """How to get a package; a name that is not known is not guessed, for others may own it."""
    known = KNOWN_DISTRIBUTIONS.get(root)
    return f"pip install {known} beside Flambeau" if known else "install it beside Flambeau"


def _check_ts(one: _Import) -> list[Finding]:
    """Findings on an import of TorchServe's own package."""
    parts = one.module.split(".")[1:]
    file = _ts_file(parts)
    if file is None:
        severity: Severity = "note" if one.guarded else "error"
        return [
            Finding(
                severity,
                "ts-import",
                one.where,
                f"{one.module} is a part of TorchServe that Flambeau does not offer.",
                "docs/migrating.md lists what is offered; take the code that is needed into the"
                " archive.",
            )
        ]
    known = _top_level_names(file)
    lost = [name for name in one.names if name not in known and _ts_file([*parts, name]) is None]
    return [
        Finding(
            "error",
            "ts-import",
            one.where,
            f"{one.module} has no {name} in Flambeau.",
            "docs/migrating.md lists what is offered.",
        )
        for name in lost
    ]


def _ts_file(parts: list[str]) -> Path | None:
    place = _TS.joinpath(*parts)
    candidates = (place / "__init__.py", place.with_suffix(".py"))
    return next((file for file in candidates if file.is_file()), None)


def _top_level_names(file: Path) -> set[str]:
    """Names that a module of ours defines or imports."""
    names: set[str] = set()
    for node in ast.walk(parse(file)):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names |= {alias.asname or alias.name.partition(".")[0] for alias in aliases}
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.Constant(value=str(name)) if file.name == "__init__.py":
                names.add(name)  # lazily imported names are listed as texts
            case _:
                pass
    return names


def _not_in_transformers(names: list[str]) -> list[str]:
    """Which names the installed Transformers lacks: a process of its own is asked.

    It imports Transformers and nothing of the archive. Where it cannot, nothing is claimed.
    """
    if not names:
        return []
    known = set(_answer_of(_LIST))
    doubtful = [name for name in names if name not in known]  # old names may work all the same
    return list(_answer_of(_PROBE, *doubtful)) if known and doubtful else []


@functools.cache
def _answer_of(code: str, *arguments: str) -> tuple[str, ...]:
    """The list that a Python program prints as JSON; nothing where it fails."""
    try:
        done = subprocess.run(  # noqa: S603  # our own interpreter; the arguments are identifiers
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            check=True,
            timeout=_PROBE_SECONDS,
        )
        return tuple(json.loads(done.stdout.splitlines()[-1]))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return ()


def _removed(name: str, one: _Import) -> Finding:
    advice = "Use its successor; Transformers' migration guide names it."
    if name.startswith(("TF", "Flax")):
        advice = "TensorFlow and JAX models are gone: load the PyTorch class of the same name."
    elif name == "AdamW":
        advice = "Take torch.optim.AdamW."
    elif name.endswith("Pipeline"):
        advice = "Call the model and tokenizer yourself (model.generate for texts)."
    return Finding(
        "note" if one.guarded else "error",
        "transformers-name",
        one.where,
        f"The installed Transformers has no {name}.",
        advice,
    )
