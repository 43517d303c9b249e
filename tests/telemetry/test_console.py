"""A console whose reader has stopped, through real processes and real pipes."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx

from flambeau.telemetry.writer import MAX_WAITING_LINES
from flambeau.testing.waiting import wait_until

LOG = """
import logging, sys
from flambeau.telemetry.logging import configure_logging
configure_logging(None)
for number in range(int(sys.argv[1])):
    logging.getLogger("MODEL_LOG").info("line %d %s", number, "x" * 200)
print("logged", flush=True)
sys.stdin.read()
logging.getLogger("flambeau").info("the last line")
"""


def log(count: int) -> "subprocess.Popen[bytes]":
    """A process that logs `count` lines, says so, and ends when its standard input does."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", LOG, str(count)]
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
    assert process.stdout is not None
    assert process.stdout.readline() == b"logged\n"
    return process


def test_every_line_is_written_before_the_process_ends() -> None:
    """In order, and the process ends as usual."""
    process = log(100)
    _, written = process.communicate(timeout=60)
    lines = written.decode().splitlines()
    assert [line.split()[7] for line in lines[:-1]] == [str(number) for number in range(100)]
    assert lines[-1].endswith("[INFO ] main flambeau - the last line")
    assert process.returncode == 0


def test_a_stopped_reader_holds_nobody_up_and_is_told_what_it_missed() -> None:
    """Thousands of lines are logged while nobody reads; the rest is dropped and counted."""
    total = MAX_WAITING_LINES + 3000
    process = log(total)  # returns: the lines are far more than the pipe and the queue hold
    _, written = process.communicate(timeout=60)
    lines = written.decode().splitlines()
    kept = [line for line in lines if "MODEL_LOG - line" in line]
    notice = next(line for line in lines if "were dropped here" in line)
    assert "[WARN ]" in notice
    dropped = int(notice.partition(" - ")[2].split()[0])
    assert MAX_WAITING_LINES <= len(kept) < total
    assert len(kept) + dropped in {total, total + 1}  # the last line may be among the dropped


def test_the_process_ends_though_nobody_reads() -> None:
    """Within seconds, with its own status: no abort because of a thread that still writes."""
    process = log(MAX_WAITING_LINES + 3000)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(60) == 0
    for stream in (process.stdout, process.stderr):
        assert stream is not None
        stream.close()


def test_the_server_answers_while_its_console_is_not_read(tmp_path: Path) -> None:
    """`torchserve --foreground` into a pipe that nobody empties: requests and the stop go on."""
    (tmp_path / "store").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    (tmp_path / "config.properties").write_text(
        "".join(f"{api}_address={address}\n" for api in ("inference", "management", "metrics"))
        + "preload=\n"
    )
    read_end, write_end = os.pipe()  # the console: nobody empties it
    command = [
        sys.executable, "-m", "flambeau.cli.torchserve", "--start", "--foreground", "--ncs",
        "--model-store", "store", "--ts-config", "config.properties", "--disable-token-auth",
    ]  # fmt: skip
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path), "FLAMBEAU_CACHE": str(tmp_path / "cache")},
        stdout=write_end,
        stderr=subprocess.DEVNULL,
    )
    os.close(write_end)
    with os.fdopen(read_end), httpx.Client(timeout=60) as client:

        def answers() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return client.get(f"{address}/ping").status_code == 200
            return False

        wait_until(answers)
        for _ in range(20):  # their log lines are twice what a pipe holds
            assert client.get(f"{address}/ping?{'x' * 8000}").status_code == 200
        process.terminate()
        assert process.wait(60) == 0
