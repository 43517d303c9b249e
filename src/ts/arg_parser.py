"""The flags of the `torchserve` command, for scripts that parse them."""

import argparse
from collections.abc import Sequence

from flambeau.cli.torchserve import parser


class ArgParser:
    """Makes the parser of `torchserve`, and parses with it."""

    @staticmethod
    def ts_parser() -> argparse.ArgumentParser:
        """Return the parser; its `--help` lists the flags."""
        return parser()

    @staticmethod
    def extract_args(args: Sequence[str] | None = None) -> argparse.Namespace:
        """Parse `args`, or else `sys.argv`; unknown flags are left out."""
        return parser().parse_known_args(args)[0]
