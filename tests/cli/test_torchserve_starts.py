"""`torchserve --start` where something goes wrong around it: readers that leave, races, interrupts."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from flambeau.testing.echo import Gate
from flambeau.testing.waiting import wait_until
from tests.cli.test_torchserve_cli import Place

START = [sys.executable, "-m", "flambeau.cli.torchserve", "--start", "--model-store", "store"]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Whatever a test starts there is stopped at its end."""
    made = Place(tmp_path / "place")
    yield made
    made.run("--stop", "--foreground")


def test_a_server_lives_on_when_nobody_reads_its_console(place: Place) -> None:
    """As in `torchserve --start | head -1`, and under a supervisor that has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*START, "--models", "echo"], cwd=place.root, env=place.environment, stdout=writer,
        stderr=subprocess.DEVNULL, timeout=60, check=False,
    )  # fmt: skip
    os.close(writer)
    assert done.returncode == 0
    wait_until(place.answers, 20)


def test_of_two_starts_at_one_moment_one_wins(place: Place) -> None:
    """Where both found no server, the second one to write the pid file does not: it ends."""
    assert place.start()[0] == 0
    pid = place.pid_file.read_text()
    claim = "from flambeau.cli import pid_file\nwith pid_file.claimed(): print('claimed')"
    second = subprocess.run(
        [sys.executable, "-c", claim], env=place.environment, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert "TorchServe is already running" in second.stderr
    assert second.stdout == ""
    assert place.pid_file.read_text() == pid
    assert list(place.pid_file.parent.iterdir()) == [place.pid_file]


@pytest.mark.parametrize("flags", [[], ["--foreground"]])
def test_a_pid_file_that_cannot_be_written_is_told_in_one_line(
    place: Place, flags: list[str]
) -> None:
    """The error names the file and the way out."""
    place.pid_file.mkdir()
    code, printed = place.start(*flags)
    assert code == 1
    assert (
        f"The pid file {place.pid_file} cannot be written: Is a directory."
        " Name another folder for temporary files with TMPDIR.\n"
    ) in printed
    assert "Traceback" not in printed


def test_ctrl_c_while_a_start_is_waited_for(place: Place) -> None:
    """The launcher ends without a traceback and says that the server goes on."""
    os.mkfifo(place.root / "metrics.yaml")  # whoever reads it waits
    with place.config.open("a") as file:
        file.write("metrics_config=metrics.yaml\n")
    with subprocess.Popen(
        START, cwd=place.root, env=place.environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as launcher:  # fmt: skip
        wait_until(place.pid_file.exists, 20)
        pid = int(place.pid_file.read_text())
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(20) == 130
        os.kill(pid, signal.SIGKILL)
        assert launcher.stderr is not None
        assert launcher.stderr.read() == (
            f"Process {pid} goes on starting in the background; torchserve --stop ends it.\n"
        )


@pytest.mark.parametrize("nohup", [False, True])
def test_a_terminal_that_is_closed_stops_a_foreground_server(
    place: Place, gate: Gate, nohup: bool
) -> None:
    """As any stop does: what was accepted is answered, no file stays. Under `nohup` it goes on."""
    ignore = ["nohup"] if nohup else []
    flags = ["--foreground", "--models", "echo", "--ts-config", "config.properties"]
    headers = {"x-do": "gate", "x-file": str(gate.file)}
    with (
        ThreadPoolExecutor() as threads,
        subprocess.Popen(
            [*ignore, *START, *flags], cwd=place.root, env=place.environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as server,
    ):  # fmt: skip
        wait_until(place.answers, 30)
        url = f"{place.inference}/predictions/echo"
        asking = threads.submit(httpx.post, url, headers=headers, timeout=30)
        gate.wait_entered()
        server.send_signal(signal.SIGHUP)
        if nohup:
            assert place.answers_at_all()
        else:
            wait_until(lambda: not place.answers_at_all(), 10)
        gate.open()
        assert asking.result(30).status_code == 200
        if nohup:
            server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    assert not place.pid_file.exists()
