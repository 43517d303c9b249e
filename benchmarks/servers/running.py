"""One server as a process tree: started, waited for, ended whatever happens."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httptools
import httpx
import msgspec
import psutil

from benchmarks.servers.environments import UnavailableError, python_of
from benchmarks.servers.systems import Place, System, environment
from flambeau.bench.bodies import make_bodies
from flambeau.bench.connection import Answer, Target, target_of
from flambeau.bench.load import Load, probe, run_load
from flambeau.bench.outcome import Outcome
from flambeau.bench.processes import cpu_seconds, tree
from flambeau.errors import ConfigError
from flambeau.testing.echo import free_ports

START_SECONDS = 240.0
STOP_SECONDS = 20.0
_POLL_SECONDS = 0.02
_PORTS = 5
_ERROR_STATUS = 400
_GONE = (OSError, httptools.HttpParserError, httpx.HTTPError, ConfigError)
"""What a server that died under load looks like to the client and to the measuring of its CPU."""


class Running(NamedTuple):
    """A server that has answered; `start_*` are the seconds from its start to that answer."""

    system: System
    ports: list[int]
    pid: int
    start_wall: float
    start_cpu: float

    @property
    def target(self) -> Target:
        """Where requests for the model go."""
        return self.target_at(self.system.path)

    def target_at(self, path: str) -> Target:
        """Where requests for another path of the server go."""
        kind = make_bodies([""], self.system.body, None).content_type
        return target_of(f"http://127.0.0.1:{self.ports[0]}{path}", {"content-type": kind})

    def requests(self, texts: list[str], path: str = "") -> list[bytes]:
        """One request for each text."""
        target = self.target_at(path or self.system.path)
        return [target.request(body) for body in make_bodies(texts, self.system.body, None).bodies]

    def ask(self, text: str, path: str = "") -> Answer:
        """One request alone."""
        body = make_bodies([text], self.system.body, None).bodies[0]
        return probe(self.target_at(path or self.system.path), body, 120)

    def load(self, load: Load, requests: list[bytes]) -> Outcome:
        """Put load on the server and measure its CPU. Raises `KeyboardInterrupt` on Ctrl-C."""
        measured = msgspec.structs.replace(load, server_pid=self.pid, timeout=120)
        outcome = run_load(measured, self.target, requests)
        if outcome.interrupted:
            raise KeyboardInterrupt
        return outcome

    def manage(self, method: str, path: str, **query: str) -> None:
        """Call the management API, TorchServe's or ours. Raises `UnavailableError` where it refuses."""
        url = f"http://127.0.0.1:{self.ports[1]}{path}"
        answer = httpx.request(method, url, params=query, timeout=300)
        if answer.is_error:
            raise UnavailableError(f"{method} {path}: {answer.status_code} {answer.text[:200]}")


def end_on_signals() -> None:
    """SIGTERM ends this process as an error does, so that servers are stopped on the way out."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: sys.exit(143))


@contextlib.contextmanager
def running(system: System, shape: str, cores: str = "") -> Iterator[Running]:
    """Start a server and wait for its first answer; its whole process tree is ended at the end.

    `cores` ("0", "0-3") are those that it may run on, as taskset takes them; "" are all.
    Raises `UnavailableError` with the reason where it does not install, start or answer.
    """
    python = python_of(system.environment)
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    place = Place(python, shape, free_ports(_PORTS), folder)
    console = folder / "console.log"
    try:
        system.prepare(place)
        command = pinned(cores, system.command(place))
        begin = time.perf_counter()
        process = _start(command, system, place, console)
        try:
            _wait_for_an_answer(system, place, process, console)
            wall = time.perf_counter() - begin
            used = cpu_seconds(process.pid)
            yield Running(system, place.ports, process.pid, wall, used)
        except _GONE as error:
            raise UnavailableError(f"stopped answering ({error}): {_reason(console)}") from error
        finally:
            _end(process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def pinned(cores: str, command: list[str]) -> list[str]:
    """The command, kept to these cores."""
    return ["taskset", "--cpu-list", cores, *command] if cores else command


def _start(
    command: list[str], system: System, place: Place, console: Path
) -> subprocess.Popen[bytes]:
    try:
        with console.open("w") as output:
            return subprocess.Popen(
                command,
                cwd=place.folder,
                env=environment(system, place),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
    except OSError as error:
        raise UnavailableError(f"cannot be started: {error}") from error


def _wait_for_an_answer(
    system: System, place: Place, process: subprocess.Popen[bytes], console: Path
) -> None:
    server = Running(system, place.ports, process.pid, 0, 0)
    begin = time.monotonic()
    end = begin + START_SECONDS
    last = "nothing listened"
    while time.monotonic() < end:
        if process.poll() is not None:
            raise UnavailableError(f"ended at its start: {_reason(console)}")
        try:
            answer = server.ask("a first text")
        except (OSError, httptools.HttpParserError) as error:
            last = str(error) or type(error).__name__
        else:
            if answer.status < _ERROR_STATUS:
                return
            last = f"{answer.status} {answer.body[:200].decode(errors='replace')}"
        time.sleep(max(_POLL_SECONDS, 0.01 * (time.monotonic() - begin)))
    raise UnavailableError(f"gave no answer within {START_SECONDS:g} s: {last} {_reason(console)}")


def _reason(console: Path) -> str:
    """The last line of the console that looks like a reason."""
    lines = [line.strip() for line in console.read_text(errors="replace").splitlines()]
    telling = [line for line in lines if "Error" in line] or [line for line in lines if line]
    return telling[-1][:300] if telling else "nothing on its console"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the tree: asked first, killed then; also what has left the process group."""
    below: list[psutil.Process] = []
    with contextlib.suppress(Exception):
        below = list(tree(process.pid))
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    for each in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
