"""`torch-workflow-archiver`, the drop-in: packs a workflow into a .war (contract.md section 1.7)."""

import argparse
import sys
from pathlib import Path

from flambeau.archive.pack_workflow import WorkflowRequest, pack_workflow
from flambeau.cli.torch_model_archiver import run_archiver

_PROGRAM = "torch-workflow-archiver"
_DESCRIPTION = "Pack a workflow's specification and its functions into an archive NAME.war."
_EPILOG = """\
example:
  torch-workflow-archiver --workflow-name dog_breed --spec-file dog_breed.yaml \\
      --handler dog_breed_functions.py --export-path workflow_store
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; return 0, or 1 after one line on stderr. Wrong usage exits with status 2."""
    options = parser().parse_args(argv)
    return run_archiver(_PROGRAM, lambda say: pack_workflow(WorkflowRequest(**vars(options)), say))


def parser() -> argparse.ArgumentParser:
    """The command's flags; the parsed names are the fields of `WorkflowRequest`."""
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--workflow-name",
        required=True,
        metavar="NAME",
        help="the workflow's name, and the archive's without .war",
    )
    parser.add_argument(
        "--spec-file",
        required=True,
        type=Path,
        metavar="FILE",
        help="YAML file with the workflow's models and its graph (dag)",
    )
    parser.add_argument(
        "--handler",
        type=Path,
        metavar="FILE",
        help="Python file with the functions that the graph names, if it names any",
    )
    parser.add_argument(
        "--extra-files",
        default="",
        metavar="LIST",
        help="more files to pack, separated by commas; no folders and no wildcards",
    )
    parser.add_argument(
        "--export-path",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help="folder to write to, which must exist (default: the current folder)",
    )
    parser.add_argument(
        "-f", "--force", action="store_true", help="overwrite an existing archive of that name"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
