"""`python -m ts.model_server`: the `torchserve` command under the name of TorchServe's module."""

import sys

from flambeau.cli.torchserve import main


def start() -> None:
    """Run the command with `sys.argv`. A failure ends the process with status 1."""
    status = main()
    if status:
        sys.exit(status)


if __name__ == "__main__":
    start()
