"""`flambeau prepare`: saves a model from the hub or a folder, ready for `torch-model-archiver`.

The work is done by a child process (`flambeau.handlers.prepare`), since this one never imports a
model framework.
"""

from pathlib import Path
from typing import Annotated

import typer

from flambeau.cli.child import run_child
from flambeau.errors import ConfigError
from flambeau.handlers.child_request import encode_request
from flambeau.handlers.prepare_request import (
    DEFAULT_OUTPUT,
    PrepareRequest,
    make_request,
    read_handler_section,
)
from flambeau.handlers.settings import SaveMode
from flambeau.types import TaskName

_WORKER = "flambeau.handlers.prepare"
_PURPOSE = "prepares the model"
_CONFIG_SUFFIXES = (".json", ".yaml", ".yml")


def prepare(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL_OR_CONFIG",
            help="A hub id, a model folder, or a setup_config.json or model-config.yaml.",
            show_default=False,
        ),
    ] = None,
    *,
    config: Annotated[
        Path | None,
        typer.Option(help="A setup_config.json or model-config.yaml; options win over it."),
    ] = None,
    task: Annotated[
        TaskName | None, typer.Option(help="Default: what the model's config.json says.")
    ] = None,
    num_labels: Annotated[
        int | None, typer.Option(min=1, help="Classes of a new classification head.")
    ] = None,
    save_mode: Annotated[
        SaveMode | None, typer.Option(help="Default: the configuration's, else pretrained.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens that a TorchScript model is traced with.")
    ] = None,
    do_lower_case: Annotated[
        bool | None,
        typer.Option(
            "--do-lower-case/--no-do-lower-case",
            help="Only for a model without tokenizer.json.",
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="A branch, tag or commit of the hub's repository.")
    ] = None,
    output: Annotated[Path, typer.Option(help="The folder to write.")] = DEFAULT_OUTPUT,
) -> None:
    """Save a model's weights, configuration and tokenizer, ready to be packed into an archive."""
    options: dict[str, object] = {
        "task": task,
        "num_labels": num_labels,
        "save_mode": save_mode,
        "max_length": max_length,
        "do_lower_case": do_lower_case,
        "revision": revision,
    }
    code = run_child(
        _WORKER, encode_request(_read_request(model, config, options, output)), _PURPOSE
    )
    if code:
        raise typer.Exit(code)


def _read_request(
    model: str | None, config: Path | None, options: dict[str, object], output: Path
) -> PrepareRequest:
    if model is not None and config is None and model.endswith(_CONFIG_SUFFIXES):
        config, model = Path(model), None
    given = read_handler_section(config) if config is not None else {}
    given |= _given({"model_name": model, **options})
    if "model_name" not in given:
        source = (
            f"{config} has no handler section with a model_name" if config else "no model given"
        )
        raise ConfigError(
            f"Nothing to prepare: {source}. Give a hub id, a model folder, or a setup_config.json"
            " or model-config.yaml that names one."
        )
    return make_request(given, output)


def _given(options: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in options.items() if value is not None}
