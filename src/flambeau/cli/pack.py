"""`flambeau pack`: a folder, a hub id or a handler becomes an archive."""

import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from flambeau.archive.golden import read_samples
from flambeau.archive.graphs import graph_files
from flambeau.archive.hub import fetch_model
from flambeau.archive.manifest import MANIFEST_PATH
from flambeau.archive.model_folder import (
    folder_request,
    graph_folder,
    is_model_folder,
    read_model_folder,
)
from flambeau.archive.pack import ArchiveFormat, PackRequest
from flambeau.archive.pack import pack as pack_archive
from flambeau.cli.exports import export_forms, wanted_forms
from flambeau.cli.golden import reference_request, with_golden
from flambeau.cli.serve import (
    EngineOption,
    LengthOption,
    OutputOption,
    PrecisionOption,
    RevisionOption,
    TaskOption,
)
from flambeau.cli.targets import Choices, folder_name, is_hub_id, report, settings_of
from flambeau.errors import ArchiveError


def pack(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A folder written by save_pretrained, or a hub id."),
    ],
    name: Annotated[
        str | None, typer.Option(help="Name of the archive [default: the folder's].")
    ] = None,
    version: Annotated[str, typer.Option(help="Version of the model.")] = "1.0",
    task: TaskOption = None,
    output: OutputOption = None,
    max_length: LengthOption = None,
    engine: EngineOption = None,
    precision: PrecisionOption = None,
    export: Annotated[
        str,
        typer.Option(
            help="Add forms for more engines, for auto to choose from: onnx, openvino or both,"
            " separated by commas."
        ),
    ] = "",
    revision: RevisionOption = None,
    config_file: Annotated[
        Path | None, typer.Option(help="Your own model-config.yaml, instead of the flags above.")
    ] = None,
    extra_files: Annotated[
        str, typer.Option(help="More files and folders to pack, separated by commas.")
    ] = "",
    golden: Annotated[
        Path | None,
        typer.Option(
            help="Requests' bodies, one a line as JSON, whose answers the model must give whenever"
            " it is loaded."
        ),
    ] = None,
    export_path: Annotated[Path, typer.Option(help="Folder to write the archive to.")] = Path(),
    archive_format: Annotated[
        ArchiveFormat, typer.Option(help="default (.mar), zip-store, tgz or no-archive (a folder).")
    ] = "default",
    force: Annotated[bool, typer.Option("--force", "-f", help="Overwrite an archive.")] = False,
) -> None:
    """Pack a Transformers model for the native handler.

    With --engine onnx or openvino the archive holds the model's form for that engine alone, with
    --export beside its weights. Forms that the folder does not have are exported and compared with
    the model. With --golden, a model that answers the samples differently does not become ready.
    Handlers of your own are packed with torch-model-archiver, as ever.
    """
    path = Path(model)
    if not path.is_dir():
        if not is_hub_id(model):
            raise ArchiveError(f"{model} is no folder, and no hub id such as owner/name")
        path = fetch_model(model, revision, report=report)
    if (path / MANIFEST_PATH).exists():
        raise ArchiveError(f"{path} is an unpacked archive already: it has a {MANIFEST_PATH}")
    if not is_model_folder(path):
        raise ArchiveError(
            f"{path} is no model folder: it has no config.json. For a handler of your own, use"
            " torch-model-archiver."
        )
    folder = source = read_model_folder(path)
    if golden is not None:
        read_samples(golden)
    try:
        export_path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArchiveError(f"{export_path} cannot be made: {error.strerror or error}") from error
    request = PackRequest(
        model_name=name
        or (folder_name(path) if Path(model).is_dir() else model.rpartition("/")[2]),
        version=version,
        handler="",
        extra_files=extra_files,
        config_file=config_file,
        export_path=export_path,
        archive_format=archive_format,
        force=force,
    )
    choices = Choices(
        task=task, output=output, max_length=max_length, engine=engine, precision=precision
    )
    with tempfile.TemporaryDirectory(dir=export_path, prefix=".flambeau-pack-") as scratch:
        place = Path(scratch)
        forms = wanted_forms(engine, precision, export)
        if forms:
            graphs = [
                file
                for graph in export_forms(folder, choices, forms, place)
                for file in graph_files(graph)
            ]
            if engine in ("onnx", "openvino") and not export:
                folder = graph_folder(folder, graphs, place / "model")
            else:
                more = [*map(str, graphs), *([extra_files] if extra_files else [])]
                request = msgspec.structs.replace(request, extra_files=",".join(more))
        settings = settings_of(folder, choices)
        complete = folder_request(folder, request, settings, place)
        if golden is not None:
            reference = reference_request(source, request, choices, place)
            complete = with_golden(complete, reference, golden, place)
        written = pack_archive(complete, report)
    print(written)
