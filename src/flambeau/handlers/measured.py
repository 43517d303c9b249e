"""Which engine a model's workers will run, as far as that is known without loading it. Pure."""

from pathlib import Path

from flambeau.archive.contents import TRANSFORMERS_HANDLER
from flambeau.archive.graphs import GRAPH_SUFFIXES
from flambeau.archive.manifest import Manifest
from flambeau.archive.verdict import Candidate, read_verdict
from flambeau.archive.yaml_config import read_yaml
from flambeau.errors import ArchiveError, ConfigError
from flambeau.handlers.settings import HandlerSettings, read_settings


def measured_choice(archive: Path, model_dir: Path, manifest: Manifest) -> Candidate | None:
    """What `engine: auto` is to run by a verdict of `flambeau tune`, None without one.

    Only for an archive of the native handler that leaves the engine open. Reads files.
    """
    settings = _settings(model_dir, manifest)
    if settings is None or settings.engine != "auto":
        return None
    verdict = read_verdict(archive, model_dir)
    if verdict is None:
        return None
    if settings.precision == "auto":
        return verdict.best(None, any_precision=True)
    return verdict.best(settings.precision)


def needs_torch(model_dir: Path, manifest: Manifest, measured: Candidate | None) -> bool:
    """Whether workers may import torch: all but native ones that run an exported graph."""
    settings = _settings(model_dir, manifest)
    if settings is None:
        return True
    engine = measured.engine if measured is not None else settings.engine
    if engine == "auto" and settings.save_mode is None:
        engine = GRAPH_SUFFIXES.get(Path(manifest.model.serialized_file).suffix, engine)
    return engine not in GRAPH_SUFFIXES.values()


def _settings(model_dir: Path, manifest: Manifest) -> HandlerSettings | None:
    """The settings of an archive of the native handler, None for others and for broken ones."""
    if manifest.model.handler != TRANSFORMERS_HANDLER:
        return None
    file = manifest.model.config_file
    try:
        return read_settings(model_dir, read_yaml(model_dir / file) if file else {})
    except (ArchiveError, ConfigError):
        return None  # the worker says what is wrong
