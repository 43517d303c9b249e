"""What a user names as a model: an archive, a folder or a hub id, made ready to be served."""

import os
import re
import sys
from pathlib import Path

import msgspec

from flambeau.archive.admission import Policy
from flambeau.archive.hub import fetch_model
from flambeau.archive.manifest import MANIFEST_PATH, read_manifest
from flambeau.archive.model_folder import (
    ModelFolder,
    adopt,
    handler_settings,
    is_model_folder,
    read_model_folder,
)
from flambeau.archive.names import default_model_name
from flambeau.archive.sentence_files import is_sentence_model
from flambeau.archive.store import ModelStore, OpenedArchive
from flambeau.errors import ArchiveError, ConfigError
from flambeau.handlers.measured import measured_choice, needs_torch
from flambeau.handlers.settings import PrecisionChoice
from flambeau.tasks import available
from flambeau.tasks.base import infer_task
from flambeau.types import OutputShape, TaskName

ARCHIVE_SUFFIXES = (".mar", ".tar.gz")


class Choices(msgspec.Struct, frozen=True):
    """What a user may choose for a model that is not packed yet; None: not chosen."""

    task: TaskName | None = None
    output: OutputShape | None = None
    max_length: int | None = None
    engine: str | None = None
    precision: PrecisionChoice | None = None
    batch_size: int | None = None
    workers: int | None = None
    revision: str | None = None


class Target(msgspec.Struct, frozen=True):
    """A model that can be served: an archive file or an unpacked folder, and its name and task.

    `model_dir` is where its files lie. `light`: its workers import no torch. `store` holds the copy of
    a signed folder in the cache, as long as somebody has the target.
    """

    path: Path
    name: str
    task: TaskName | None
    model_dir: Path
    light: bool
    store: ModelStore | None = None


def is_hub_id(text: str) -> bool:
    """Whether this has the form of a hub id: `name` or `owner/name`."""
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", text) is not None and not text.startswith(".")


def resolve(
    model: str, name: str | None, choices: Choices, cache: Path, policy: Policy | None = None
) -> Target:
    """Turn what the user named into something that can be served; fetches from the hub if need be.

    Where `policy` wants signatures, a folder's is verified before anything of it is read. Raises `ArchiveError`, `ConfigError` or `HubError`, in one line each.
    """
    path = Path(model)
    store = ModelStore(path.resolve().parent, cache / "archives", policy=policy)
    if path.is_file():
        if not model.endswith(ARCHIVE_SUFFIXES):
            raise ArchiveError(f"{model} is no archive: its name ends in neither .mar nor .tar.gz")
        return _archive(path, name, choices, store)
    if path.is_dir():
        if is_model_folder(path):
            return _folder(path, name or _model_name(folder_name(path)), choices, store, cache)
        if (path / MANIFEST_PATH).is_file():
            return _archive(path, name, choices, store)
        raise ArchiveError(
            f"{model} is neither a model folder (no config.json) nor an unpacked archive"
            f" (no {MANIFEST_PATH})"
        )
    if model.endswith(ARCHIVE_SUFFIXES) or not is_hub_id(model):
        raise ArchiveError(f"{model} does not exist")
    fetched = fetch_model(model, choices.revision, report=report)
    name = name or _model_name(model.rpartition("/")[2])
    return _folder(fetched, name, choices, store, cache)


def folder_name(path: Path) -> str:
    """The name that a folder was called by: a link's own, and never `.`."""
    return Path(os.path.abspath(path)).name


def report(line: str) -> None:
    """Say on stderr what is done meanwhile."""
    print(line, file=sys.stderr)


def task_of(folder: ModelFolder, chosen: TaskName | None) -> TaskName:
    """The task that was chosen, or that the model's architecture is made for."""
    makes_vectors = is_sentence_model(folder.path)
    task = chosen or infer_task(folder.config, makes_vectors=makes_vectors)
    if task is None:
        architecture = folder.config.get("architectures") or folder.config.get("model_type")
        raise ConfigError(
            f"{folder.path} does not say which task it is for ({architecture}). Name one with --task:"
            f" {', '.join(available())}."
        )
    return task


def settings_of(folder: ModelFolder, choices: Choices) -> dict[str, object]:
    """The `model-config.yaml` document for a Transformers folder."""
    traced = folder.weights.name == "traced_model.pt"
    document = handler_settings(
        task=task_of(folder, choices.task),
        output=choices.output,
        max_length=choices.max_length,
        engine=choices.engine,
        precision=choices.precision,
        save_mode="torchscript" if traced else None,
    )
    if choices.batch_size is not None:
        document["batchSize"] = choices.batch_size
    if choices.workers is not None:
        document |= {"minWorkers": choices.workers, "maxWorkers": choices.workers}
    return document


def _archive(path: Path, name: str | None, choices: Choices, store: ModelStore) -> Target:
    given = {
        field: value
        for field, value in msgspec.structs.asdict(choices).items()
        if value is not None
    }
    if given.keys() - {"workers", "batch_size"}:
        flags = ", ".join(f"--{field.replace('_', '-')}" for field in sorted(given))
        raise ConfigError(
            f"{path} is packed already: {flags} would have no effect. Its own model-config.yaml"
            " decides; pack it again to change it."
        )
    opened = store.open(path)
    chosen = name or opened.manifest.model.model_name or default_model_name(path)
    return _target(path.resolve(), chosen, None, opened)


def _target(path: Path, name: str, task: TaskName | None, opened: OpenedArchive) -> Target:
    measured = measured_choice(path, opened.model_dir, opened.manifest)
    light = not needs_torch(opened.model_dir, opened.manifest, measured)
    return Target(path, name, task, opened.model_dir, light)


def _model_name(base: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", base).lstrip("._-") or "model"


def _folder(path: Path, name: str, choices: Choices, store: ModelStore, cache: Path) -> Target:
    folder = read_model_folder(store.open(path).model_dir if store.policy.covers(path) else path)
    root = cache / "adopted"
    settings = settings_of(folder, choices)
    try:
        root.mkdir(parents=True, exist_ok=True)
        path = adopt(folder, root, name, "1.0", settings)
    except OSError as error:
        raise ConfigError(
            f"The cache {root} cannot be written: {error.strerror or error}. Name another place with"
            " FLAMBEAU_CACHE."
        ) from error
    opened = OpenedArchive(path, read_manifest(path), "")
    target = _target(path, name, task_of(folder, choices.task), opened)
    return msgspec.structs.replace(target, store=store)
