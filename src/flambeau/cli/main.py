"""The entry point of the `flambeau` command."""

import sys


def main() -> None:
    """Run the command: an error is one line on stderr and exit code 1, an interrupt is 130.

    `flambeau serve` ends with 0 on Ctrl-C: that is how a server is stopped. The subcommands are
    imported in here, so that a Ctrl-C during the imports ends as quietly.
    """
    try:
        from flambeau.cli.app import app
        from flambeau.errors import FlambeauError

        try:
            app()
        except FlambeauError as error:
            print(f"flambeau: {error}", file=sys.stderr)
            sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
