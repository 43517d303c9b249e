"""Functions that pack a workflow, for scripts."""

import logging
import sys
from argparse import Namespace
from pathlib import Path

from flambeau.archive.pack_workflow import WorkflowRequest, pack_workflow
from flambeau.errors import FlambeauError
from workflow_archiver.arg_parser import ArgParser
from workflow_archiver.workflow_packaging_utils import WorkflowExportUtils

_logger = logging.getLogger(__name__)


def package_workflow(args: Namespace, manifest: str) -> None:
    """Write `<workflow_name>.war` with `manifest`, a JSON text. An error ends the process (1)."""
    try:
        request = WorkflowRequest(
            workflow_name=args.workflow_name,
            spec_file=Path(args.spec_file),
            handler=Path(args.handler) if args.handler else None,
            extra_files=args.extra_files or "",
            export_path=Path(args.export_path or ""),
            force=bool(args.force),
        )
        output = pack_workflow(request, _logger.warning, manifest.encode())
    except FlambeauError as error:
        _logger.error("%s", error)  # noqa: TRY400  # the message says it all
        sys.exit(1)
    _logger.info("Workflow %s is packed in %s", args.workflow_name, output)


def generate_workflow_archive() -> None:
    """Write the archive that `sys.argv` describes. An error ends the process with status 1."""
    args = ArgParser.workflow_archiver_args_parser().parse_args()
    package_workflow(args, WorkflowExportUtils.generate_manifest_json(args))


if __name__ == "__main__":
    generate_workflow_archive()
