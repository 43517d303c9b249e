"""Functions that pack a model, for scripts."""

import logging
import os
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from flambeau.archive.pack import PackRequest, pack
from flambeau.errors import FlambeauError, MissingFileError
from model_archiver.arg_parser import ArgParser
from model_archiver.model_archiver_config import ModelArchiverConfig
from model_archiver.model_archiver_error import ModelArchiverError, ModelFileNotFoundError
from model_archiver.model_packaging_utils import ModelExportUtils

_logger = logging.getLogger(__name__)


def generate_model_archive(config: ModelArchiverConfig | None = None) -> None:
    """Write the archive that `config`, or else `sys.argv`, describes.

    Raises `ModelArchiverError`, which is a `FileNotFoundError` too where a file is missing.
    """
    if config is None:
        config = ArgParser.export_model_args_parser()
    package_model(config, ModelExportUtils.generate_manifest_json(config))


def package_model(config: ModelArchiverConfig | Namespace, manifest: str) -> None:
    """Write an archive with `manifest`, a JSON text. Raises as `generate_model_archive` does."""
    with _archiver_errors():
        output = pack(_request(config), _logger.warning, manifest.encode())
    _logger.info("Model %s is packed in %s", config.model_name, output)


def _request(config: ModelArchiverConfig | Namespace) -> PackRequest:
    """The packer's request; older scripts' namespaces lack the younger flags."""
    given = {
        name: os.fspath(value) if isinstance(value, os.PathLike) else value
        for name, value in vars(config).items()
        if name in PackRequest.__struct_fields__ and value is not None
    }
    return msgspec.convert(given, PackRequest, dec_hook=_path, strict=False)


def _path(kind: type, value: Any) -> Any:  # msgspec's hook for types that it does not know
    assert kind is Path
    return Path(value)


@contextmanager
def _archiver_errors() -> Iterator[None]:
    try:
        yield
    except MissingFileError as error:
        raise ModelFileNotFoundError(str(error)) from error
    except (FlambeauError, msgspec.ValidationError) as error:
        raise ModelArchiverError(str(error)) from error


if __name__ == "__main__":
    generate_model_archive()
