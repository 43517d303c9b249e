"""Folders as `save_pretrained` writes them: what is in one, and how it becomes an archive.

`adopt` serves such a folder in place: a folder of links with a manifest, so that no weights are
copied. `pack_folder` writes a real archive.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import yaml

from flambeau.archive.contents import TRANSFORMERS_HANDLER, companions
from flambeau.archive.graphs import GRAPH_FOLDERS, GRAPH_SUFFIXES, any_graph, graph_files
from flambeau.archive.manifest import (
    MANIFEST_PATH,
    ModelSection,
    encode_manifest,
    new_manifest,
    write_manifest,
)
from flambeau.archive.pack import PackRequest, pack
from flambeau.archive.sentence_files import sentence_files
from flambeau.archive.staging import staged_folder
from flambeau.errors import ArchiveError

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "traced_model.pt",
    "pytorch_model.bin",
)
"""Weight files in the order of preference."""

CONFIG_FILE = "model-config.yaml"
_LABELS_FILE = "index_to_name.json"


class ModelFolder(msgspec.Struct, frozen=True):
    """A Transformers model on the disk. `config` is its `config.json`."""

    path: Path
    weights: Path
    config: dict[str, object]


def is_model_folder(path: Path) -> bool:
    """Whether this is a Transformers folder (and not an unpacked archive)."""
    return (path / "config.json").is_file() and not (path / MANIFEST_PATH).exists()


def read_model_folder(path: Path) -> ModelFolder:
    """Look at a Transformers folder. Raises `ArchiveError` that names what is missing."""
    weights = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    weights = weights or any_graph(path)
    if weights is None:
        raise ArchiveError(f"{path} holds no weights: none of {', '.join(WEIGHTS)} is there")
    try:
        config: object = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArchiveError(f"{path / 'config.json'} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ArchiveError(f"{path / 'config.json'} is not a JSON object")
    return ModelFolder(path, weights, config)


def adopt(
    folder: ModelFolder, root: Path, name: str, version: str, settings: Mapping[str, object]
) -> Path:
    """Make an unpacked archive of links to `folder`'s files below `root`, and return it.

    `settings` is the document of `model-config.yaml`. The archive's place follows from the folder,
    its files' names and the settings: what another process serves is never changed under it.
    """
    files = {
        # the hub's cache has links itself, to files of other names
        file.relative_to(folder.path).as_posix(): str(file.resolve())
        for below in GRAPH_FOLDERS
        if (folder.path / below).is_dir()
        for file in sorted((folder.path / below).iterdir())
        if file.is_file() and file.name != CONFIG_FILE
    }
    files |= {name: str((folder.path / name).resolve()) for name in sentence_files(folder.path)}
    identity = json.dumps([name, version, settings, files])
    target = root / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    if target.is_dir():
        return target
    with staged_folder(target) as stage:
        for file_name, source in files.items():
            link = stage / file_name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(source)
        (stage / CONFIG_FILE).write_text(yaml.safe_dump(dict(settings)), encoding="utf-8")
        section = ModelSection(
            model_name=name,
            model_version=version,
            handler=TRANSFORMERS_HANDLER,
            serialized_file=folder.weights.relative_to(folder.path).as_posix(),
            config_file=CONFIG_FILE,
        )
        write_manifest(stage, encode_manifest(new_manifest(section)))
    return target


def pack_folder(
    folder: ModelFolder,
    request: PackRequest,
    settings: Mapping[str, object],
    scratch: Path,
    notify: Callable[[str], None],
) -> Path:
    """Pack a folder for the native handler; `scratch` is an empty folder for the yaml."""
    return pack(folder_request(folder, request, settings, scratch), notify)


def folder_request(
    folder: ModelFolder, request: PackRequest, settings: Mapping[str, object], scratch: Path
) -> PackRequest:
    """The request that packs a folder for the native handler, with all its files named."""
    config_file = request.config_file
    if config_file is None:
        config_file = scratch / CONFIG_FILE
        config_file.write_text(yaml.safe_dump(dict(settings)), encoding="utf-8")
    labels = folder.path / _LABELS_FILE
    extra = [str(labels)] if labels.is_file() else []
    if folder.weights.suffix in GRAPH_SUFFIXES:
        beside = companions(folder.path / folder.weights.name, ())
        extra += map(str, (*graph_files(folder.weights)[1:], *beside))
    if request.extra_files:
        extra.append(request.extra_files)
    return msgspec.structs.replace(
        request,
        handler=TRANSFORMERS_HANDLER,
        serialized_file=folder.weights,
        config_file=config_file,
        extra_files=",".join(extra),
    )


def graph_folder(folder: ModelFolder, graphs: Sequence[Path], place: Path) -> ModelFolder:
    """A folder with graphs of a model and without its own weights, made in `place` of links."""
    names = companions(folder.weights, ())
    labels = folder.path / _LABELS_FILE
    place.mkdir()
    for source in (*names, *([labels] if labels.is_file() else []), *graphs):
        (place / source.name).symlink_to(source.resolve())
    for name in sentence_files(folder.path):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).symlink_to((folder.path / name).resolve())
    return ModelFolder(place, place / graphs[0].name, folder.config)


def handler_settings(**choices: object) -> dict[str, object]:
    """The `handler:` document of the native handler, without what was not chosen."""
    return {"handler": {key: value for key, value in choices.items() if value is not None}}
