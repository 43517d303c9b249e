"""The `flambeau` command's subcommands, put together."""

from typing import Annotated

import typer

from flambeau import __version__
from flambeau.cli.bench import bench
from flambeau.cli.doctor import doctor
from flambeau.cli.models import app as models_app
from flambeau.cli.named_tokens import app as token_app
from flambeau.cli.pack import pack
from flambeau.cli.predict import predict
from flambeau.cli.prepare import prepare
from flambeau.cli.serve import serve
from flambeau.cli.sign import sign, verify
from flambeau.cli.tune import tune

app = typer.Typer(
    name="flambeau",
    help="Serve Hugging Face Transformers models. TorchServe's archives, commands and APIs, carried on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(serve)
app.command()(pack)
app.command()(sign)
app.command()(verify)
app.command()(prepare)
app.command()(tune)
app.command()(predict)
app.command()(doctor)
app.command()(bench)
app.add_typer(models_app, name="models")
app.add_typer(token_app, name="token")


def _print_version(wanted: bool) -> None:  # typer calls it so
    if wanted:
        print(f"flambeau {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass
