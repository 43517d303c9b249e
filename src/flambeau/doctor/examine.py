"""Examines one archive or folder, or every one of a store."""

import tempfile
from pathlib import Path

from flambeau.archive.manifest import MANIFEST_PATH, read_manifest
from flambeau.archive.names import default_model_name
from flambeau.archive.store import ModelStore
from flambeau.archive.unpack import unpack
from flambeau.doctor.batches import check_batches
from flambeau.doctor.calls import check_calls
from flambeau.doctor.findings import Finding, Report, in_order
from flambeau.doctor.handler import examine_handler
from flambeau.doctor.imports import check_imports
from flambeau.doctor.settings import check_manifest, check_requirements, check_yaml
from flambeau.doctor.sources import read_sources
from flambeau.doctor.weights import check_weights
from flambeau.errors import ArchiveError

_ARCHIVES = (".mar", ".tar.gz", ".tgz")


def examine(path: Path) -> list[Report]:
    """Reports on an archive, an unpacked one, or all of a store, by name.

    Raises `ArchiveError` if there is nothing at `path`, or a folder without any model.
    """
    if path.is_file():
        return [_examine_one(path)]
    if not path.is_dir():
        raise ArchiveError(f"{path} does not exist: name an archive, a folder or a model store")
    if _is_model(path):
        return [_examine_one(path)]
    models = [
        each for each in ModelStore(path, path).list_all() if each.is_file() or _is_model(each)
    ]
    if not models:
        raise ArchiveError(f"{path} holds no archive and no model folder")
    return [_examine_one(each) for each in models]


def _is_model(folder: Path) -> bool:
    if (folder / MANIFEST_PATH).is_file():
        return True
    names = [path.name for path in folder.iterdir()]
    return any(name.endswith(".py") for name in names) and not any(
        name.endswith(_ARCHIVES) for name in names
    )


def _examine_one(path: Path) -> Report:
    if path.is_dir():
        return _examine_folder(path.name, path)
    with tempfile.TemporaryDirectory(prefix="flambeau-doctor-") as scratch:
        model_dir = Path(scratch, "model")
        try:
            unpack(path, model_dir)
        except ArchiveError as error:
            return _broken(path.name, error)
        return _examine_folder(path.name, model_dir)


def _examine_folder(name: str, model_dir: Path) -> Report:
    try:
        manifest = read_manifest(model_dir)
    except ArchiveError as error:
        return _broken(name, error)
    model = manifest.model
    document, keys, findings = check_yaml(model.config_file, model_dir)
    findings += check_manifest(manifest, model_dir)
    brought, on_requirements = check_requirements(model.requirements_file, model_dir)
    sources, on_sources = read_sources(model_dir)
    handler = examine_handler(manifest, document, model_dir, sources)
    findings += [*on_requirements, *handler.findings, *check_weights(model_dir)]
    if not handler.native:  # the archive's code is what runs
        findings += on_sources
        findings += check_imports(sources, model_dir, brought)
        findings += check_calls(sources, model_dir)
        findings += check_batches(sources, handler.function, keys.batch_size or 1)
    return Report(
        archive=name,
        model=model.model_name or default_model_name(Path(name)),
        version=model.model_version or "1.0",
        handler=model.handler,
        served=handler.served,
        findings=in_order(findings),
    )


def _broken(name: str, error: ArchiveError) -> Report:
    finding = Finding("error", "archive", "", f"{error}.", "Pack it again.")
    return Report(archive=name, served="nobody", findings=(finding,))
