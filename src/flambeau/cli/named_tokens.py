"""`flambeau token`: make, list and revoke named tokens (docs/security.md)."""

import datetime
import json
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from flambeau.config import ServerConfig
from flambeau.errors import ConfigError
from flambeau.serving.token_file import ScopeName, create_token, read_tokens, revoke_token

app = typer.Typer(
    name="token",
    help="Make, list and revoke named tokens, which a running server takes over at once.",
    no_args_is_help=True,
)
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}

FileOption = Annotated[
    Path, typer.Option(help="The server's tokens_file; it holds digests, no tokens.")
]
_FILE = ServerConfig().tokens_file


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the token is known by, such as its user.")],
    scope: Annotated[
        ScopeName,
        typer.Option(help="What it opens: inference, management, metrics, or token (renewals)."),
    ],
    model: Annotated[
        str, typer.Option(help="Only what this model's path names [default: every model].")
    ] = "",
    expires: Annotated[
        str, typer.Option(help="How long it counts: such as 30d, 12h or 45m, or never.")
    ] = "90d",
    file: FileOption = _FILE,
) -> None:
    """Make a token and print it: this once, the file has only its digest."""
    lifetime = _lifetime(expires)
    print(create_token(file, name, scope, model=model, lifetime=lifetime))
    until = f"for {expires}" if lifetime else "without end"
    print(f"flambeau: the token {name!r} counts {until}; {file} knows it", file=sys.stderr)


@app.command("list")
def list_tokens(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    file: FileOption = _FILE,
) -> None:
    """Show names, scopes, models and ends."""
    rows = [
        {
            "name": token.name,
            "scope": token.scope,
            "model": token.model,
            "expires": token.expires.isoformat() if token.expires else "never",
        }
        for token in read_tokens(file)
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print("{name}  {scope}  {model}  {expires}".format(**{**row, "model": row["model"] or "*"}))


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The token's name.")], file: FileOption = _FILE
) -> None:
    """Take a token out of the file: it counts no more."""
    revoke_token(file, name)


def _lifetime(text: str) -> datetime.timedelta | None:
    if text == "never":
        return None
    match = re.fullmatch(r"([1-9]\d{0,5})([mhd])", text)
    if match is None:
        raise ConfigError(f"--expires {text}: expected such as 30d, 12h or 45m, or never")
    return datetime.timedelta(**{_UNITS[match.group(2)]: int(match.group(1))})
