"""The token that a client command sends: what is given, or what a server of this folder wrote."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flambeau.config import Address

KEY_FILE = Path("key_file.json")

TokenOption = Annotated[
    str | None,
    typer.Option(
        envvar="FLAMBEAU_TOKEN",
        help="Token of the server [default: from key_file.json in this folder, for a server on"
        " this machine]. Others can see a flag's value; the variable is private.",
        show_envvar=True,
    ),
]


def authorization(token: str | None, url: str, scope: str) -> dict[str, str]:
    """The request headers that carry the token; empty where there is none.

    The key file of this folder is used for a server on this machine only: a key must not go to
    whatever host a command line names. `scope` is `inference` or `management`.
    """
    found = token or _from_key_file(url, scope)
    return {"authorization": f"Bearer {found}"} if found else {}


def _from_key_file(url: str, scope: str) -> str:
    import httpx  # 60 ms that the start of a server saves

    try:
        if not Address(httpx.URL(url).host).loopback:
            return ""
        key = json.loads(KEY_FILE.read_bytes())[scope]["key"]
    except (OSError, ValueError, KeyError, TypeError, httpx.InvalidURL):
        return ""
    return key if isinstance(key, str) else ""


def explain(status: int, message: str) -> str:
    """A server's error message, with what to do where a token is missing."""
    if status not in {401, 403} or "Token" not in message:
        return message
    return (
        f"{message}. Give the server's token with --token or FLAMBEAU_TOKEN;"
        f" it is in the server's {KEY_FILE}."
    )
