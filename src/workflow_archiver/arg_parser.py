"""The command's flags, for scripts that parse them."""

import argparse

from flambeau.cli.torch_workflow_archiver import parser


class ArgParser:
    """Makes the parser of `torch-workflow-archiver`."""

    @staticmethod
    def workflow_archiver_args_parser() -> argparse.ArgumentParser:
        """Return the parser; its `--help` lists the flags."""
        return parser()
