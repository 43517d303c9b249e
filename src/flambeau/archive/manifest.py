"""`MAR-INF/MANIFEST.json`: what an archive says about itself (contract.md section 1.4)."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Literal, get_args

import msgspec

from flambeau import __version__
from flambeau.archive.names import is_plain_name, shown
from flambeau.errors import ArchiveError

MANIFEST_PATH = Path("MAR-INF", "MANIFEST.json")

Runtime = Literal["python", "python3", "LSP"]

_MAX_BYTES = 1024 * 1024


class ManifestError(ArchiveError):
    """A manifest without what registering needs, in TorchServe's words (contract.md section 1.4).

    `reason` says it in full, for the log.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class ModelSection(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The manifest's `model` object. "" stands for a key that is not there.

    Keys that end in `File` and `sourceVocab` name files of the archive. `sourceVocab` and
    `envelope` are older archives'; the archiver does not write them.
    """

    model_name: str = ""
    serialized_file: str = ""
    handler: str = ""
    model_file: str = ""
    model_version: str = ""
    extensions: str | list[object] | dict[str, object] = ""
    requirements_file: str = ""
    config_file: str = ""
    source_vocab: str = ""
    envelope: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A whole manifest. `Manifest()` is the one of an archive that has none."""

    created_on: str = ""
    runtime: Runtime = "python"
    model: ModelSection = ModelSection()
    archiver_version: str = ""


def new_manifest(model: ModelSection, runtime: Runtime = "python") -> Manifest:
    """Return the manifest of an archive that is packed now, by this version."""
    created_on, archiver_version = new_manifest_header()
    return Manifest(
        created_on=created_on, runtime=runtime, model=model, archiver_version=archiver_version
    )


def new_manifest_header() -> tuple[str, str]:
    """Return what every manifest says of now and of us: `createdOn` and `archiverVersion`."""
    return datetime.now().astimezone().strftime("%d/%m/%Y %H:%M:%S"), __version__


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the manifest as JSON, in TorchServe's layout: indented by 2, no empty keys."""
    record = to_record(manifest) | {"model": to_record(manifest.model)}
    return json.dumps(record, indent=2).encode()


def to_record(part: Manifest | ModelSection) -> dict[str, object]:
    """Return a manifest, or its `model` object, under the JSON's names; empty keys are left out."""
    record: dict[str, object] = msgspec.to_builtins(part)
    return {key: value for key, value in record.items() if value}


def decode_manifest(text: bytes) -> Manifest:
    """Read a manifest's JSON.

    Unknown keys are ignored and `null` counts as absent. A number where a text belongs keeps its
    spelling (`"modelVersion": 1.0` is version `1.0`), as in TorchServe. Raises `ArchiveError`.
    """
    record = _without_nulls(_json_object(text, numbers=str))
    if "model" not in record:
        raise ManifestError(
            "Missing Model entry in manifest file.",
            f'{MANIFEST_PATH} has no "model" entry; pack the archive again',
        )
    if record.get("runtime", "python") not in get_args(Runtime):
        raise ManifestError(
            "Runtime is not defined or invalid.",
            f"{MANIFEST_PATH}: the runtime {shown(str(record['runtime']))} is not one of "
            f"{', '.join(get_args(Runtime))}",
        )
    try:
        return msgspec.convert(record, Manifest)
    except msgspec.ValidationError as error:
        raise ArchiveError(f"{MANIFEST_PATH}: {error}") from error


def read_manifest(model_dir: Path) -> Manifest:
    """Read the manifest of an unpacked archive or model folder; `Manifest()` if it has none.

    Every file that the manifest names must be a file of `model_dir` itself (promises.md R5).
    Raises `ArchiveError` if one is not, or if the manifest cannot be read.
    """
    text = _read(model_dir)
    if text is None:
        return Manifest()
    manifest = decode_manifest(text)
    _check_files(manifest.model, model_dir)
    return manifest


def read_manifest_document(model_dir: Path) -> dict[str, object] | None:
    """Read a manifest as its author wrote it, as handlers see it; None if there is none.

    Raises `ArchiveError` if it is no JSON object or cannot be read.
    """
    text = _read(model_dir)
    return None if text is None else _json_object(text)


def _read(model_dir: Path) -> bytes | None:
    path = model_dir / MANIFEST_PATH
    if not path.exists():
        return None
    if not path.is_file():
        raise ArchiveError(f"{MANIFEST_PATH} is not a file")
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ArchiveError(f"{MANIFEST_PATH} cannot be read: {error.strerror}") from error
    if len(text) > _MAX_BYTES:
        raise ArchiveError(f"{MANIFEST_PATH} is larger than {_MAX_BYTES} bytes")
    return text


def _json_object(text: bytes, numbers: Callable[[str], object] | None = None) -> dict[str, object]:
    try:
        record: object = json.loads(
            text.decode("utf-8-sig"), parse_int=numbers, parse_float=numbers
        )
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"{MANIFEST_PATH} is not valid JSON: {error}") from error
    if not isinstance(record, dict):
        raise ArchiveError(f"{MANIFEST_PATH} is not a JSON object")
    return record


def write_manifest(model_dir: Path, text: bytes) -> None:
    """Write a manifest's JSON into a model folder. Raises `OSError`."""
    path = model_dir / MANIFEST_PATH
    path.parent.mkdir(exist_ok=True)
    # An older manifest may be a hard link to a file that must stay as it is.
    path.unlink(missing_ok=True)
    path.write_bytes(text)


def _check_files(model: ModelSection, model_dir: Path) -> None:
    module = model.handler.partition(":")[0]
    if module and not is_plain_name(module):
        raise ArchiveError(
            f"{MANIFEST_PATH}: handler {shown(model.handler)} must be a name without folders"
        )
    named = {
        "serializedFile": model.serialized_file,
        "modelFile": model.model_file,
        "requirementsFile": model.requirements_file,
        "configFile": model.config_file,
        "sourceVocab": model.source_vocab,
        "handler": module if module.endswith(".py") else "",
    }
    for key, name in named.items():
        if not name:
            continue
        if not is_plain_name(name):
            raise ArchiveError(
                f"{MANIFEST_PATH}: {key} {shown(name)} must be a file name without folders"
            )
        if not (model_dir / name).is_file():
            raise ArchiveError(
                f"{MANIFEST_PATH}: {key} names {shown(name)}, which is not in the archive"
            )


def _without_nulls(record: dict[str, object]) -> dict[str, object]:
    return {
        key: _without_nulls(value) if isinstance(value, dict) else value
        for key, value in record.items()
        if value is not None
    }
