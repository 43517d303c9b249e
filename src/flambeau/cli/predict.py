"""`flambeau predict`: one answer, from a model on the disk or from a running server."""

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flambeau.cli.logs import set_up_logging
from flambeau.cli.serve import (
    LengthOption,
    ModelArgument,
    OutputOption,
    RevisionOption,
    TaskOption,
)
from flambeau.cli.targets import Choices, Target, resolve
from flambeau.cli.tokens import TokenOption, authorization, explain
from flambeau.config import ServerConfig, default_cache_dir
from flambeau.errors import ConfigError, ErrorKind, FlambeauError, PredictionError
from flambeau.types import Field

if TYPE_CHECKING:
    import httpx

_JSON_STARTS = ("{", "[")
_TIMEOUT = 600.0
"""Seconds; the server has a limit of its own."""


def predict(
    model: ModelArgument,
    text: Annotated[
        str | None, typer.Argument(help="The input: text or JSON [default: standard input].")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-T", help="Read the input from this file.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="Ask the server at this address; MODEL is then a served model's name."),
    ] = None,
    task: TaskOption = None,
    output: OutputOption = None,
    max_length: LengthOption = None,
    revision: RevisionOption = None,
    token: TokenOption = None,
) -> None:
    """Print a model's answer to one input, without a server unless --url names one."""
    body, content_type = _read_input(text, file)
    if url is not None:
        local = {"--task": task, "--max-length": max_length, "--revision": revision}
        given = ", ".join(flag for flag, value in local.items() if value is not None)
        if given:
            raise ConfigError(f"{given} would have no effect with --url: the server decides.")
        headers = {"content-type": content_type} | authorization(token, url, "inference")
        if output is not None:
            headers["x-flambeau-output"] = output
        _print(_ask(url, model, body, headers))
        return
    set_up_logging(None, level=logging.ERROR)
    cache = default_cache_dir()
    target = resolve(model, None, Choices(task, output, max_length, revision=revision), cache)
    config = ServerConfig(model_store=target.path.parent, cache_dir=cache)
    answer = asyncio.run(_predict(config, target, Field("body", content_type, body)))
    _print(answer)


def _print(answer: bytes) -> None:
    """Write UTF-8, whatever the locale."""
    sys.stdout.buffer.write(answer.rstrip(b"\n") + b"\n")
    sys.stdout.buffer.flush()


def _read_input(text: str | None, file: Path | None) -> tuple[bytes, str]:
    if text is not None and file is not None:
        raise ConfigError("Give the input as TEXT or with --file, not both.")
    if text is not None:
        body = os.fsencode(text)  # the very bytes that were typed, whatever the locale
    elif file is not None:
        try:
            body = file.read_bytes()
        except OSError as error:
            raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    else:
        body = sys.stdin.buffer.read()
    is_json = body.lstrip()[:1].decode("latin-1") in _JSON_STARTS and bool(body.strip())
    return body, "application/json" if is_json else "text/plain"


async def _predict(config: ServerConfig, target: Target, field: Field) -> bytes:
    from flambeau.server import Core  # half a second that other commands save
    from flambeau.serving.options import Registration

    core = Core(config, import_ahead=not target.light)
    async with core.running():
        registration = Registration(str(target.path), model_name=target.name, at_startup=True)
        try:
            await core.management.register(registration, wait=True)
            entry = core.inference.submit(target.name, "", {"explain": "False"}, [field])
            parts = [chunk.body async for chunk in entry.chunks()]
        except FlambeauError as error:
            return_error = error
        else:
            return b"".join(parts)
    raise return_error


def _ask(url: str, model: str, body: bytes, headers: dict[str, str]) -> bytes:
    import httpx  # 60 ms that the start of a server saves

    try:
        response = httpx.post(
            f"{url.rstrip('/')}/predictions/{model}",
            content=body,
            headers=headers,
            timeout=_TIMEOUT,
        )
    except httpx.HTTPError as error:
        raise ConfigError(f"No server answers at {url}: {error}") from error
    if response.is_error:
        message = explain(response.status_code, _message(response))
        raise PredictionError(f"{response.status_code}: {message}", ErrorKind.INTERNAL)
    return response.content


def _message(response: "httpx.Response") -> str:
    try:
        document = response.json()
    except ValueError:
        return response.text
    return (
        str(document.get("message", response.text)) if isinstance(document, dict) else str(document)
    )
