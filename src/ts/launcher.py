"""Starts and stops a server from a Python program (contract.md section 2.8)."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Thread
from typing import IO

import httpx

MANAGEMENT_ADDRESS = "http://localhost:8081"

Parameters = Mapping[str, str | int | bool] | Sequence[tuple[str, str]]

_COMMAND = (sys.executable, "-m", "flambeau.cli.torchserve")
_STARTED = "Model server started"
_KEPT_LINES = 1000


def start(  # noqa: PLR0913, PLR0917  # TorchServe's
    model_store: str | Path | None = None,
    snapshot_file: str | Path | None = None,
    no_config_snapshots: bool = False,
    plugin_folder: str | Path | None = None,
    disable_token: bool = False,
    models: str | Sequence[str] | None = None,
    enable_model_api: bool = False,
) -> Queue[str | None]:
    """Stop a server that runs, start one, and return when it accepts requests.

    Returns a queue of the lines that it prints and logs from then on, None after the last one; when
    the queue holds 1,000, further lines are dropped. All lines are printed here too. The server
    outlives this process unless `stop` is called. Raises `RuntimeError` with what it said if it
    does not start.
    """
    stop()
    valued = {
        "--model-store": model_store,
        "--ts-config": snapshot_file,
        "--plugins-path": plugin_folder,
    }
    switches = {
        "--no-config-snapshots": no_config_snapshots,
        "--disable-token-auth": disable_token,
        "--enable-model-api": enable_model_api,
    }
    command = [*_COMMAND, "--start", "--foreground"]
    command += [f"{flag}={value}" for flag, value in valued.items() if value]
    command += [flag for flag, wanted in switches.items() if wanted]
    if models:
        command += ["--models", *([models] if isinstance(models, str) else models)]
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C ends this program; `stop` ends the server
        text=True,
        errors="replace",
    )
    assert server.stdout is not None
    said: list[str] = []
    for line in server.stdout:
        said.append(line)
        print(line.rstrip())
        if _STARTED in line:
            break
    else:
        server.wait()
        raise RuntimeError(f"The server did not start: {''.join(said).strip()}")
    lines: Queue[str | None] = Queue(_KEPT_LINES)
    Thread(target=_forward, args=(server, server.stdout, lines), daemon=True).start()
    return lines


def stop(wait: bool = True) -> None:
    """Stop the server that runs in this temporary folder, if any."""
    subprocess.run([*_COMMAND, "--stop", *["--foreground"] * wait], check=False)


def register_model(
    model_name: str, url: str, management_address: str = MANAGEMENT_ADDRESS
) -> httpx.Response:
    """Register a model with one worker, and wait until it is ready. Returns the response."""
    parameters = {
        "model_name": model_name,
        "url": url,
        "initial_workers": "1",
        "synchronous": "true",
    }
    return register_model_with_params(parameters, management_address)


def register_model_with_params(
    params: Parameters, management_address: str = MANAGEMENT_ADDRESS
) -> httpx.Response:
    """Register a model with these query parameters. Returns the response, whatever its status.

    It is httpx's, not requests'; it has `ok` too.
    """
    pairs = params.items() if isinstance(params, Mapping) else params
    response = httpx.post(
        f"{management_address}/models", params=[(key, str(value)) for key, value in pairs],
        timeout=None,  # noqa: S113  # a model may take its time to load; the server has limits of its own
    )  # fmt: skip
    response.ok = response.is_success  # type: ignore[attr-defined]  # as requests has it
    return response


def _forward(server: subprocess.Popen[str], output: IO[str], lines: Queue[str | None]) -> None:
    """Print the server's lines and queue them, until it ends."""
    for line in output:
        print(line.rstrip())
        _put(lines, line)
    server.wait()
    if not _put(lines, None):
        _make_room(lines)
        _put(lines, None)


def _put(lines: Queue[str | None], line: str | None) -> bool:
    try:
        lines.put_nowait(line)
    except Full:
        return False
    return True


def _make_room(lines: Queue[str | None]) -> None:
    try:
        lines.get_nowait()
    except Empty:
        return
