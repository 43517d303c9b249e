"""The steps of packing, for scripts that run them one by one."""

import logging
import os
from argparse import Namespace
from pathlib import Path

from flambeau.archive.names import check_name
from flambeau.archive.pack import check_output
from flambeau.errors import ArchiveError
from workflow_archiver.manifest_components.manifest import Manifest
from workflow_archiver.manifest_components.workflow import Workflow
from workflow_archiver.workflow_archiver_error import WorkflowArchiverError

_logger = logging.getLogger(__name__)


class WorkflowExportUtils:
    """The steps of packing a workflow."""

    @staticmethod
    def get_archive_export_path(export_file_path: str, workflow_name: str) -> str:
        """Return the path of the archive."""
        return os.path.join(export_file_path, f"{workflow_name}.war")

    @staticmethod
    def check_war_already_exists(
        workflow_name: str, export_file_path: str | None, overwrite: bool
    ) -> str:
        """Return the folder to write to. Raises `WorkflowArchiverError` if the archive is there."""
        folder = export_file_path or os.getcwd()
        path = WorkflowExportUtils.get_archive_export_path(folder, workflow_name)
        try:
            check_output(Path(path), force=overwrite, notify=_logger.warning)
        except ArchiveError as error:
            raise WorkflowArchiverError(str(error)) from error
        return folder

    @staticmethod
    def generate_workflow(workflow_args: Namespace) -> Workflow:
        """Return the manifest's `workflow` object."""
        return Workflow(
            workflow_name=workflow_args.workflow_name,
            spec_file=str(workflow_args.spec_file),
            handler=str(workflow_args.handler) if workflow_args.handler else None,
        )

    @staticmethod
    def generate_manifest_json(args: Namespace) -> str:
        """Return the manifest's JSON."""
        return str(Manifest(workflow=WorkflowExportUtils.generate_workflow(args)))

    @staticmethod
    def validate_inputs(workflow_name: str, export_path: str) -> None:
        """Raise `WorkflowArchiverError` for a bad name, or if the export path is no folder."""
        try:
            check_name("workflow name", workflow_name)
        except ArchiveError as error:
            raise WorkflowArchiverError(str(error)) from error
        if not Path(export_path).is_dir():
            raise WorkflowArchiverError(f"Given export-path {export_path} is not a directory")
