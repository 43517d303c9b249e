"""Packs a model into an archive (contract.md sections 1.1 and 1.2).

Files are copied straight from where they are into the output, which is written under a hidden name
beside its target and renamed: there is no staging folder in the temporary directory that two runs
could share, and no partial output after a failure.
"""

import os
import shutil
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Literal
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import msgspec

from flambeau.archive.contents import (
    TRANSFORMERS_HANDLER,
    Contents,
    HandlerSource,
    companions,
    extra_files,
    handler_source,
    is_transformers_handler,
    shards,
)
from flambeau.archive.entries import Limits
from flambeau.archive.golden import GOLDEN_PATH
from flambeau.archive.graphs import GRAPH_FOLDERS
from flambeau.archive.manifest import (
    MANIFEST_PATH,
    Manifest,
    ModelSection,
    Runtime,
    encode_manifest,
    new_manifest,
    write_manifest,
)
from flambeau.archive.names import check_name
from flambeau.archive.sentence_files import sentence_files
from flambeau.archive.staging import staged_file, staged_folder
from flambeau.errors import ArchiveError, MissingFileError

ArchiveFormat = Literal["default", "zip-store", "tgz", "no-archive"]

SUFFIXES: dict[ArchiveFormat, str] = {
    "default": ".mar",
    "zip-store": ".mar",
    "tgz": ".tar.gz",
    "no-archive": "",
}


class PackRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to pack: the flags of `torch-model-archiver`.

    `extra_files` is its comma-separated list. `version` is the model's. `golden`, which it has not,
    is a file as `archive.golden` writes it.
    """

    model_name: str
    version: str
    handler: str
    serialized_file: Path | None = None
    model_file: Path | None = None
    extra_files: str = ""
    requirements_file: Path | None = None
    config_file: Path | None = None
    golden: Path | None = None
    runtime: Runtime = "python"
    export_path: Path = Path()
    archive_format: ArchiveFormat = "default"
    force: bool = False


def pack(
    request: PackRequest,
    notify: Callable[[str], None] = lambda _: None,
    manifest: bytes | None = None,
) -> Path:
    """Write the archive or folder and return its path.

    `notify` is told, in one line each, what the user did not ask for: files that were added,
    wildcards without a match, an output that is overwritten. `manifest` is a manifest's JSON to
    write in place of the request's own. Raises `ArchiveError`; then the output is as it was before.
    """
    try:
        output = _checked_output(request, notify)
        handler, contents = _collect(request, output, notify)
        files = contents.checked()
        text = manifest if manifest is not None else encode_manifest(_manifest(request, handler))
        write_archive(output, files, text, request.archive_format)
        _check_ratio(output, files, notify)
    except OSError as error:
        raise ArchiveError(
            f"{error.filename or request.export_path}: {error.strerror or error}"
        ) from error
    return output


def stage(request: PackRequest, folder: Path) -> Path:
    """Make `folder` what unpacking the archive would give, of links; returns it.

    For whoever has to load a model before it is packed. Raises `ArchiveError`.
    """
    handler, contents = _collect(request, folder, lambda _: None)
    for name, source in contents.checked().items():
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source.resolve())
    write_manifest(folder, encode_manifest(_manifest(request, handler)))
    return folder.resolve()


def _checked_output(request: PackRequest, notify: Callable[[str], None]) -> Path:
    check_name("model name", request.model_name)
    if request.version:  # without one, the server takes 1.0
        check_name("model version", request.version)
    output = request.export_path / f"{request.model_name}{SUFFIXES[request.archive_format]}"
    check_output(output, force=request.force, notify=notify)
    if output.exists() and output.is_dir() != (request.archive_format == "no-archive"):
        kind = "folder" if output.is_dir() else "file"
        raise ArchiveError(f"{output} is a {kind}, which --force does not replace; move it away")
    return output


def check_output(output: Path, *, force: bool, notify: Callable[[str], None]) -> None:
    """Check that `output` may be written: its folder is there, and with `force` it may be too.

    Raises `ArchiveError`. TorchServe 0.12 does not make the folder either (contract.md section
    1.1): a typing error would be found when the server starts.
    """
    if not output.parent.is_dir():
        raise ArchiveError(
            f"Given export-path {output.parent} is not a directory. Make it first, or name another"
        )
    if output.exists():
        if not force:
            raise ArchiveError(f"{output} already exists. Use --force (-f) to overwrite it")
        notify(f"overwriting {output}")


def _collect(
    request: PackRequest, output: Path, notify: Callable[[str], None]
) -> tuple[HandlerSource, Contents]:
    contents = Contents(output)
    for flag, path in (
        ("--model-file", request.model_file),
        ("--serialized-file", request.serialized_file),
    ):
        _add_named(contents, flag, path)
    handler = handler_source(request.handler, request.runtime)
    if handler.path is not None:
        contents.add(handler.path)
    for path in extra_files(request.extra_files, notify):
        if path.is_dir():
            contents.add_folder(path)
        else:
            contents.add(path)
    _add_named(contents, "--requirements-file", request.requirements_file)
    _add_named(contents, "--config-file", request.config_file)
    if request.golden is not None:
        contents.add(request.golden, f"{GOLDEN_PATH.parent}/")
    if request.serialized_file is not None:
        _add_beside(contents, request.serialized_file, handler, notify)
    return handler, contents


def _add_named(contents: Contents, flag: str, path: Path | None) -> None:
    if path is None:
        return
    if not path.exists():
        raise MissingFileError(f"File does not exist: {path} (named by {flag})")
    contents.add(path)


def _add_beside(
    contents: Contents,
    serialized_file: Path,
    handler: HandlerSource,
    notify: Callable[[str], None],
) -> None:
    """Add the shards of an index and, for a Transformers handler, tokenizer and configuration.

    TorchServe's example commands leave the tokenizer out; the handler then downloads one from the
    hub while it loads.
    """
    added = shards(serialized_file, contents.files)
    if _is_for_transformers(handler):
        added += companions(serialized_file, contents.files)
    for path in added:
        contents.add(path)
    modules = _add_modules(contents, serialized_file) if _is_for_transformers(handler) else []
    if added or modules:
        names = ", ".join([*(path.name for path in added), *modules])
        notify(f"added {names} from {serialized_file.parent}, where the serialized file is")


def _add_modules(contents: Contents, serialized_file: Path) -> list[str]:
    """Add what sentence-transformers saved with a model, and return its names."""
    folder = serialized_file.parent
    if folder.name in GRAPH_FOLDERS and not (folder / "config.json").is_file():
        folder = folder.parent  # as on the hub: the graph lies in a folder of its own
    names = [name for name in sentence_files(folder) if name not in contents.files]
    for name in names:
        contents.add(folder / name, name.removesuffix(Path(name).name))
    return names


def _is_for_transformers(handler: HandlerSource) -> bool:
    if handler.path is None:
        return handler.manifest_value == TRANSFORMERS_HANDLER
    return is_transformers_handler(handler.path.read_text("utf-8", errors="replace"))


def _manifest(request: PackRequest, handler: HandlerSource) -> Manifest:
    def name(path: Path | None) -> str:
        return "" if path is None else path.name

    section = ModelSection(
        model_name=request.model_name,
        serialized_file=name(request.serialized_file),
        handler=handler.manifest_value,
        model_file=name(request.model_file),
        model_version=request.version,
        requirements_file=name(request.requirements_file),
        config_file=name(request.config_file),
    )
    return new_manifest(section, request.runtime)


def write_archive(
    output: Path, files: dict[str, Path], manifest: bytes, archive_format: ArchiveFormat
) -> None:
    """Write `files` (entry name → file) and a manifest's JSON. Raises `OSError`."""
    match archive_format:
        case "default":
            write_zip(output, files, {MANIFEST_PATH.as_posix(): manifest}, ZIP_DEFLATED)
        case "zip-store":
            write_zip(output, files, {MANIFEST_PATH.as_posix(): manifest}, ZIP_STORED)
        case "tgz":
            _write_tgz(output, files, manifest)
        case "no-archive":
            _write_folder(output, files, manifest)


def _check_ratio(output: Path, files: dict[str, Path], notify: Callable[[str], None]) -> None:
    """Tell if unpacking would take the archive for a bomb, as it does with zeros."""
    unpacked = sum(source.stat().st_size for source in files.values())
    if output.is_file() and unpacked > Limits().unpacked_bytes(output.stat().st_size):
        notify(
            f"warning: the server will refuse to unpack {output}: {unpacked} bytes are too "
            "many for its size. Use --archive-format no-archive"
        )


def write_zip(output: Path, files: dict[str, Path], texts: dict[str, bytes], method: int) -> None:
    """Write a zip archive of `texts` (entry name → content) and `files`. Raises `OSError`.

    Large weights are stored as they are: they hardly shrink, and inflating 440 MB took a start
    3.9 s of CPU time (2026-11-28).
    """
    with (
        staged_file(output) as file,
        ZipFile(file, "w", method, strict_timestamps=False) as archive,
    ):
        for name, text in texts.items():
            archive.writestr(name, text)
        for name, source in files.items():
            archive.write(source, name, ZIP_STORED if _are_large_weights(source) else method)


_WEIGHTS = frozenset({".safetensors", ".bin", ".pt", ".pth", ".onnx"})
_LARGE_BYTES = 1024 * 1024


def _are_large_weights(file: Path) -> bool:
    return file.suffix in _WEIGHTS and file.stat().st_size > _LARGE_BYTES


def _write_tgz(output: Path, files: dict[str, Path], manifest: bytes) -> None:
    """Write a tar.gz whose members all lie below one folder, named like the archive."""
    folder = output.name.removesuffix(SUFFIXES["tgz"])
    with (
        staged_file(output) as file,
        tarfile.open(fileobj=file, mode="w:gz", dereference=True) as archive,
    ):
        member = tarfile.TarInfo(f"{folder}/{MANIFEST_PATH.as_posix()}")
        member.size = len(manifest)
        archive.addfile(member, BytesIO(manifest))
        for name, source in files.items():
            archive.add(source, f"{folder}/{name}", recursive=False, filter=_anonymous)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out who packed the file and with which permissions."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member


def _write_folder(output: Path, files: dict[str, Path], manifest: bytes) -> None:
    """Write a model folder. Files of an older folder that are not packed again stay in it."""
    with staged_folder(output) as stage:
        if output.is_dir():
            shutil.copytree(
                output, stage, symlinks=True, copy_function=_link_or_copy, dirs_exist_ok=True
            )
        for name, source in files.items():
            target = stage / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)  # it may be a hard link to the source itself
            shutil.copyfile(source, target)
        if GOLDEN_PATH.as_posix() not in files:
            (stage / GOLDEN_PATH).unlink(missing_ok=True)  # an older model's answers
        write_manifest(stage, manifest)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
