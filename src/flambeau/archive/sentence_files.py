"""The files that sentence-transformers saves beside a model: its modules and settings.

`modules.json` names a folder for each module but the first, such as `1_Pooling`, with the module's
configuration and perhaps weights in it.
"""

import json
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

MODULES_FILE = "modules.json"
_SETTINGS = (
    MODULES_FILE,
    "config_sentence_transformers.json",
    "embedding_ranges.json",
    "sentence_bert_config.json",
)
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def is_sentence_model(folder: Path) -> bool:
    """Whether a folder's model was saved to make vectors of texts, and not to score pairs of them."""
    if not (folder / MODULES_FILE).is_file():
        return False
    settings = _read(folder / "config_sentence_transformers.json")
    kind = settings.get("model_type") if isinstance(settings, dict) else None
    return kind in (None, "SentenceTransformer")


def sentence_files(folder: Path) -> list[str]:
    """Those that a folder has, as paths within it; module folders hold only what is needed."""
    names = [name for name in _SETTINGS if (folder / name).is_file()]
    if MODULES_FILE not in names:
        return names
    return names + [
        f"{module}/{name}"
        for module in _module_folders(folder)
        for name in _of_module(
            [name for name in ("config.json", *_WEIGHTS) if (folder / module / name).is_file()]
        )
    ]


def listed_module_files(names: Collection[str]) -> list[str]:
    """Those of a repository's files that are modules': `1_Pooling/config.json` and the like.

    Only folders with a number in front, as sentence-transformers names them, and of two forms of
    weights the safer one.
    """
    if MODULES_FILE not in names:
        return []
    folders: dict[str, list[str]] = {}
    for path in sorted(names):
        folder, _, name = path.partition("/")
        number, _, kind = folder.partition("_")
        if number.isdigit() and kind and name in ("config.json", *_WEIGHTS):
            folders.setdefault(folder, []).append(name)
    return [f"{folder}/{name}" for folder, inside in folders.items() for name in _of_module(inside)]


def _of_module(names: list[str]) -> list[str]:
    safer = _WEIGHTS[0] in names
    return [name for name in names if name != _WEIGHTS[1] or not safer]


def _module_folders(folder: Path) -> Iterator[str]:
    modules = _read(folder / MODULES_FILE)
    for module in modules if isinstance(modules, list) else []:
        place = module.get("path") if isinstance(module, dict) else None
        if isinstance(place, str) and place:
            path = PurePosixPath(place)
            if not path.is_absolute() and ".." not in path.parts and (folder / path).is_dir():
                yield path.as_posix()


def _read(path: Path) -> object:
    """A file's JSON; None where it holds none: the worker says what is wrong."""
    try:
        value: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value
