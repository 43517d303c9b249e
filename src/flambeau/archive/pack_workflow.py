"""Packs a workflow into a `.war` archive (contract.md section 1.7)."""

import json
from collections.abc import Callable
from pathlib import Path
from zipfile import ZIP_DEFLATED

import msgspec

from flambeau.archive.contents import Contents
from flambeau.archive.manifest import new_manifest_header
from flambeau.archive.names import check_name
from flambeau.archive.pack import check_output, write_zip
from flambeau.errors import ArchiveError, MissingFileError

WORKFLOW_MANIFEST = "WAR-INF/MANIFEST.json"


class WorkflowRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to pack: the flags of `torch-workflow-archiver`.

    `extra_files` is a comma-separated list of files. TorchServe's archiver crashes without a
    handler; here a workflow of models only needs none.
    """

    workflow_name: str
    spec_file: Path
    handler: Path | None = None
    extra_files: str = ""
    export_path: Path = Path()
    force: bool = False


def workflow_manifest(request: WorkflowRequest) -> bytes:
    """Return the manifest as JSON, in TorchServe's layout: indented by 2, no empty keys."""
    section = {"workflowName": request.workflow_name, "specFile": request.spec_file.name}
    if request.handler is not None:
        section["handler"] = request.handler.name
    created_on, archiver_version = new_manifest_header()
    record = {
        "createdOn": created_on,
        "workflow": section,
        "archiverVersion": archiver_version,
    }
    return json.dumps(record, indent=2).encode()


def pack_workflow(
    request: WorkflowRequest,
    notify: Callable[[str], None] = lambda _: None,
    manifest: bytes | None = None,
) -> Path:
    """Write `<workflow_name>.war` and return its path.

    `manifest` is a manifest's JSON to write in place of the request's own. Raises `ArchiveError`;
    then an older archive is as it was before.
    """
    check_name("workflow name", request.workflow_name)
    output = request.export_path / f"{request.workflow_name}.war"
    check_output(output, force=request.force, notify=notify)
    contents = Contents(output)
    for flag, path in (("--spec-file", request.spec_file), ("--handler", request.handler)):
        if path is not None:
            _add(contents, flag, path)
    for item in filter(None, (item.strip() for item in request.extra_files.split(","))):
        _add(contents, "--extra-files", Path(item))
    try:
        text = workflow_manifest(request) if manifest is None else manifest
        write_zip(output, contents.checked(), {WORKFLOW_MANIFEST: text}, ZIP_DEFLATED)
    except OSError as error:
        raise ArchiveError(f"{error.filename or output}: {error.strerror or error}") from error
    return output


def _add(contents: Contents, flag: str, path: Path) -> None:
    if not path.exists():
        raise MissingFileError(f"File does not exist: {path} (named by {flag})")
    contents.add(path)
