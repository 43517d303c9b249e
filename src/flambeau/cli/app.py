"""The `flambeau` command's subcommands, put together."""

from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from flambeau import __version__

_COMMANDS = ("serve", "pack", "prepare", "tune", "predict", "doctor", "models")
"""Each is the function of that name in `flambeau.cli.<name>`; `models` is a group of its own."""


def make_app(words: Sequence[str]) -> typer.Typer:
    """The command for a command line; without the subcommands that it does not call.

    Importing them all takes as long as starting a worker.
    """
    app = typer.Typer(
        name="flambeau",
        help="Serve Hugging Face Transformers models. TorchServe's archives, commands and APIs, carried on.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_root)
    called = words[0] if words else ""
    for name in [called] if called in _COMMANDS else _COMMANDS:
        module = import_module(f"flambeau.cli.{name}")
        if name == "models":
            app.add_typer(module.app, name=name)
        else:
            app.command()(getattr(module, name))
    return app


def _print_version(wanted: bool) -> None:  # typer calls it so
    if wanted:
        print(f"flambeau {__version__}")
        raise typer.Exit


def _root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass
