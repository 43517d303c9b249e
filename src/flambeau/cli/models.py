"""`flambeau models`: look at and change what a running server serves, over its management API."""

import json
from typing import Annotated, Any, NamedTuple
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Table

from flambeau.cli.tokens import TokenOption, authorization, explain
from flambeau.errors import ErrorKind, FlambeauError

app = typer.Typer(
    help="List, describe, register, scale and remove the models of a running server.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class _Api(NamedTuple):
    """Where the management API is, and the token that was given for it."""

    url: str
    token: str | None


UrlOption = Annotated[
    str, typer.Option(help="Address of the management API.", envvar="FLAMBEAU_MANAGEMENT_URL")
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")]
VersionOption = Annotated[str, typer.Option(help="Version [default: the default version].")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the server's JSON.")]
_DEFAULT_URL = "http://127.0.0.1:8081"
_PAGE = 100
_TIMEOUT = 600.0
"""Seconds; registering waits until the workers are ready."""


@app.command("list")
def list_models(
    url: UrlOption = _DEFAULT_URL, as_json: JsonOption = False, token: TokenOption = None
) -> None:
    """List all models with their default version, workers and queue."""
    api = _Api(url, token)
    names: list[str] = []
    start: str | None = "0"
    while start is not None:
        page = _call("GET", api, "/models", {"limit": _PAGE, "next_page_token": start})
        names += [model["modelName"] for model in page["models"]]
        start = page.get("nextPageToken")
    models = [version for name in names for version in _call("GET", api, f"/models/{name}/all")]
    if as_json:
        print(json.dumps(models, indent=2))
        return
    table = Table("name", "version", "task or handler", "ready", "waiting")
    for model in models:
        ready = sum(worker["status"] == "READY" for worker in model["workers"])
        handler = model.get("handler", {})
        table.add_row(
            model["modelName"],
            model["modelVersion"],
            handler.get("task") or handler.get("name", ""),
            f"{ready} of {model['minWorkers']}",
            str(model["jobQueueStatus"]["pendingRequests"]),
        )
    Console().print(table)


@app.command()
def describe(
    name: NameArgument,
    version: VersionOption = "",
    url: UrlOption = _DEFAULT_URL,
    token: TokenOption = None,
) -> None:
    """Print everything about one model, as JSON."""
    print(json.dumps(_call("GET", _Api(url, token), _path(name, version)), indent=2))


@app.command()
def register(
    archive: Annotated[
        str, typer.Argument(metavar="ARCHIVE", help="File or folder in the server's model store.")
    ],
    name: Annotated[str | None, typer.Option(help="Name [default: the archive's].")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Worker processes to start.")] = 1,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Most requests in a batch.")] = None,
    url: UrlOption = _DEFAULT_URL,
    token: TokenOption = None,
) -> None:
    """Register a model and wait until it is ready."""
    parameters: dict[str, str | int] = {"url": archive, "initial_workers": workers}
    if name is not None:
        parameters["model_name"] = name
    if batch_size is not None:
        parameters["batch_size"] = batch_size
    print(_call("POST", _Api(url, token), "/models", parameters)["status"])


@app.command()
def scale(
    name: NameArgument,
    workers: Annotated[int, typer.Argument(min=0, help="Worker processes.")],
    version: VersionOption = "",
    url: UrlOption = _DEFAULT_URL,
    token: TokenOption = None,
) -> None:
    """Change a model's number of workers and wait until it is reached."""
    parameters: dict[str, str | int] = {
        "min_worker": workers,
        "max_worker": workers,
        "synchronous": "true",
    }
    print(_call("PUT", _Api(url, token), _path(name, version), parameters)["status"])


@app.command()
def remove(
    name: NameArgument,
    version: VersionOption = "",
    url: UrlOption = _DEFAULT_URL,
    token: TokenOption = None,
) -> None:
    """Take a model out of service; requests that were accepted are answered first."""
    print(_call("DELETE", _Api(url, token), _path(name, version))["status"])


def _path(name: str, version: str) -> str:
    parts = [name, version] if version else [name]
    return "/models/" + "/".join(quote(part, safe="") for part in parts)


def _call(
    method: str, api: _Api, path: str, parameters: dict[str, str | int] | None = None
) -> Any:  # JSON of many shapes
    import httpx  # 60 ms that the start of a server saves

    try:
        response = httpx.request(
            method,
            api.url.rstrip("/") + path,
            params=parameters,
            headers=authorization(api.token, api.url, "management"),
            timeout=_TIMEOUT,
        )
    except httpx.HTTPError as error:
        raise FlambeauError(
            ErrorKind.INTERNAL,
            f"No server answers at {api.url} ({error}). Is it running, and is this its management API?",
        ) from error
    document = response.json()
    if response.is_error:
        message = str(document.get("message", document))
        raise FlambeauError(ErrorKind.INTERNAL, explain(response.status_code, message))
    return document
