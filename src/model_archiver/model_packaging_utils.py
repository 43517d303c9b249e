"""The steps of packing, for scripts that run them one by one."""

import logging
import os
import re
import shutil
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import get_args

from flambeau.archive.contents import (
    LSP_HANDLERS,
    PYTHON_HANDLERS,
    Contents,
    extra_files,
    handler_source,
    is_skipped,
)
from flambeau.archive.manifest import Runtime
from flambeau.archive.pack import SUFFIXES, ArchiveFormat, check_output, write_archive
from flambeau.errors import ArchiveError
from model_archiver.manifest_components.manifest import Manifest
from model_archiver.manifest_components.model import Model
from model_archiver.model_archiver_config import ModelArchiverConfig
from model_archiver.model_archiver_error import ModelArchiverError

archiving_options: dict[str, str] = {str(key): suffix for key, suffix in SUFFIXES.items()}
model_handlers = dict.fromkeys(sorted(PYTHON_HANDLERS), "anything")

_NAME = r"^[A-Za-z0-9][A-Za-z0-9_\-.]*$"
_logger = logging.getLogger(__name__)


class ModelExportUtils:
    """The steps of packing a model. `ModelArchiver` runs them all."""

    @staticmethod
    def get_archive_export_path(export_file_path: str, model_name: str, archive_format: str) -> str:
        """Return the path of the archive."""
        return os.path.join(export_file_path, f"{model_name}{archiving_options[archive_format]}")

    @staticmethod
    def check_mar_already_exists(
        model_name: str,
        export_file_path: str | None,
        overwrite: bool,
        archive_format: str = "default",
    ) -> str:
        """Return the folder to write to. Raises `ModelArchiverError` if the archive is there."""
        folder = export_file_path or os.getcwd()
        path = ModelExportUtils.get_archive_export_path(folder, model_name, archive_format)
        try:
            check_output(Path(path), force=overwrite, notify=_logger.warning)
        except ArchiveError as error:
            raise ModelArchiverError(str(error)) from error
        return folder

    @staticmethod
    def find_unique(files: list[str], suffix: str) -> str | None:
        """Return the one file that ends in `suffix`, or None. Raises `ModelArchiverError`."""
        match = [name for name in files if name.endswith(suffix)]
        if len(match) > 1:
            raise ModelArchiverError(f"Only one {suffix} file is allowed, and there are {match}")
        return match[0] if match else None

    @staticmethod
    def generate_model(modelcfg: ModelArchiverConfig | Namespace) -> Model:
        """Return the manifest's `model` object."""
        return Model(
            model_name=modelcfg.model_name,
            serialized_file=getattr(modelcfg, "serialized_file", None),
            model_file=getattr(modelcfg, "model_file", None),
            handler=modelcfg.handler,
            model_version=modelcfg.version,
            requirements_file=getattr(modelcfg, "requirements_file", None),
            config_file=getattr(modelcfg, "config_file", None),
        )

    @staticmethod
    def generate_manifest_json(config: ModelArchiverConfig | Namespace) -> str:
        """Return the manifest's JSON."""
        runtime = getattr(config, "runtime", "python")
        return str(Manifest(runtime=runtime, model=ModelExportUtils.generate_model(config)))

    @staticmethod
    def clean_temp_files(temp_files: list[str]) -> None:
        """Remove files."""
        for name in temp_files:
            Path(name).unlink()

    @staticmethod
    def make_dir(d: str) -> None:
        """Make a folder, with those above it; an existing one is fine."""
        Path(d).mkdir(parents=True, exist_ok=True)

    @staticmethod
    def copy_artifacts(model_name: str, runtime: str, **kwargs: str | None) -> str:
        """Copy a model's files into a new folder and return its path.

        TorchServe uses `<tempdir>/<model_name>` and deletes what was there; this is a fresh folder
        of that name in one of its own.
        """
        folder = Path(tempfile.mkdtemp(prefix="model_archiver_"), model_name)
        folder.mkdir()
        contents = Contents(folder)
        for kind, value in kwargs.items():
            if value:
                _add(contents, kind, value, runtime)
        for name, source in contents.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
        return str(folder)

    @staticmethod
    def archive(
        export_file: str,
        model_name: str,
        model_path: str,
        manifest: str,
        archive_format: ArchiveFormat = "default",
    ) -> None:
        """Write the archive of a folder's files and a manifest's JSON."""
        output = ModelExportUtils.get_archive_export_path(export_file, model_name, archive_format)
        contents = Contents(Path(output))
        contents.add_folder(Path(model_path))
        write_archive(Path(output), contents.checked(), manifest.encode(), archive_format)

    @staticmethod
    def directory_filter(directory: str, unwanted_dirs: set[str]) -> bool:
        """Say whether a sub-folder of this name is packed."""
        return directory not in unwanted_dirs and not is_skipped(directory)

    @staticmethod
    def file_filter(current_file: str, files_to_exclude: set[str]) -> bool:
        """Say whether a file of this name is packed."""
        files_to_exclude.add("MANIFEST.json")
        left_out = (".pyc", ".DS_Store", ".mar")
        return current_file not in files_to_exclude and not current_file.endswith(left_out)

    @staticmethod
    def check_model_name_regex_or_exit(model_name: str) -> None:
        """Raise `ModelArchiverError` for a name that no model may have."""
        if not re.match(_NAME, model_name):
            raise ModelArchiverError(f"{model_name!r} cannot name a model: it must match {_NAME}")

    @staticmethod
    def validate_inputs(model_name: str, export_path: str) -> None:
        """Raise `ModelArchiverError` for a bad name, or if the export path is no folder."""
        ModelExportUtils.check_model_name_regex_or_exit(model_name)
        if not Path(export_path).is_dir():
            raise ModelArchiverError(f"Given export-path {export_path} is not a directory")


def _add(contents: Contents, kind: str, value: str, runtime: str) -> None:
    if kind == "extra_files":
        for path in extra_files(value, _logger.warning):
            if path.is_dir():
                contents.add_folder(path)
            else:
                contents.add(path)
    elif kind == "handler":
        if value not in PYTHON_HANDLERS | LSP_HANDLERS:
            names = {name: name for name in get_args(Runtime)}
            source = handler_source(value, names[runtime])
            if source.path is not None:
                contents.add(source.path)
    else:
        contents.add(Path(value))
