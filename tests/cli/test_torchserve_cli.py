"""The drop-in `torchserve` command as a process: messages, exit codes, background servers (section 2)."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from flambeau.testing.echo import Gate, children, write_model
from flambeau.testing.waiting import wait_until


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    ports = [int(sock.getsockname()[1]) for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


class Place:
    """A working directory with a model store, a configuration, and a pid file of its own."""

    def __init__(self, root: Path, preload: str = "preload=\n") -> None:
        self.root = root
        for name in ("tmp", "store", "cache"):
            (root / name).mkdir(parents=True)
        write_model(root / "store", "echo")
        self.ports = free_ports(3)
        keys = ("inference_address", "management_address", "metrics_address")
        lines = [f"{k}=http://127.0.0.1:{p}\n" for k, p in zip(keys, self.ports, strict=True)]
        self.config = root / "config.properties"
        self.config.write_text("".join(lines) + preload + "vmargs=-Xmx1g\nfoo=1\n")
        self.environment = os.environ | {
            "TMPDIR": str(root / "tmp"),
            "FLAMBEAU_CACHE": str(root / "cache"),
            "LOG_LOCATION": str(root / "logs"),
        }
        self.pid_file = root / "tmp" / ".model_server.pid"

    @property
    def inference(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run the command to its end: exit code, and what it printed to stdout."""
        done = subprocess.run(
            [sys.executable, "-m", "flambeau.cli.torchserve", *arguments],
            cwd=self.root, env=self.environment, timeout=60, check=False,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        return done.returncode, done.stdout

    def start(self, *arguments: str) -> tuple[int, str]:
        return self.run("--start", "--model-store", "store", "--models", "echo", *arguments)

    def log(self, name: str) -> str:
        return (self.root / "logs" / name).read_text()

    def answers(self) -> bool:
        try:
            return httpx.post(f"{self.inference}/predictions/echo").status_code == 200
        except httpx.TransportError:
            return False

    def answers_at_all(self) -> bool:
        """Whether the inference port takes connections."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.ports[0])) == 0


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Whatever a test starts there is stopped at its end."""
    made = Place(tmp_path / "place")
    yield made
    made.run("--stop", "--foreground")


def test_version(place: Place) -> None:
    """TorchServe's words, and ours after them."""
    code, printed = place.run("--version")
    assert code == 0
    assert re.fullmatch(r"TorchServe Version is 0\.12\.0 \(Flambeau [\d.]+\)\n", printed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--start"], "Missing mandatory parameter --model-store"),
        ([], "Missing mandatory parameter --model-store"),
        (["--model-store", "no"], "--model-store directory not found: no"),
        (
            ["--model-store", "store", "--workflow-store", "no"],
            "--workflow-store directory not found: no",
        ),
        (["--model-store", "store", "--ts-config", "no"], "--ts-config file not found: no"),
        (["--model-store", "store", "--log-config", "no"], "--log-config file not found: no"),
        (
            ["--model-store", "store", "--cpp-log-config", "no"],
            "--cpp-log-config file not found: no",
        ),
    ],
)
def test_mistakes_are_told_in_torchserve_s_words(
    place: Place, arguments: list[str], message: str
) -> None:
    """One line to stdout, exit code 1 (section 2.2)."""
    assert place.run(*arguments) == (1, message + "\n")


def test_a_wrong_configuration_is_told_by_the_launcher(place: Place) -> None:
    """Not only in a log, as TorchServe does in the background."""
    place.config.write_text("job_queue_size=many\n")
    code, printed = place.start()
    assert code == 1
    assert printed.startswith("Invalid configuration: job_queue_size=many: expected a whole number")
    assert printed.count("\n") == 1


def test_commands_exclude_each_other(place: Place) -> None:
    """argparse's exit code 2."""
    done = subprocess.run(
        [sys.executable, "-m", "flambeau.cli.torchserve", "--start", "--stop"],
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2


def test_models_may_be_separated_by_commas(place: Place) -> None:
    """`--models a=x,b=y` is what `--models a=x b=y` is, as TorchServe's launcher has it."""
    printed = place.run("--start", "--model-store", "store", "--models", "one=echo,two=echo")[1]
    assert "Model server started." in printed
    url = f"http://127.0.0.1:{place.ports[1]}/models"
    wait_until(lambda: len(httpx.get(url).json()["models"]) == 2, 20)
    names = [model["modelName"] for model in httpx.get(url).json()["models"]]
    assert names == ["one", "two"]
    assert place.run("--stop")[0] == 0


def test_stop_without_a_server(place: Place) -> None:
    """Exit code 0, and an orphan pid file goes; the process that has its pid now is let be."""
    assert place.run("--stop") == (0, "TorchServe is not currently running.\n")
    code = "import sys; sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "edit", "torchserve.log"], stdin=subprocess.PIPE
    ) as bystander:
        for text in ("4194304", str(bystander.pid), "nonsense", ""):
            place.pid_file.write_text(text)
            status, printed = place.run("--stop")
            assert status == 0
            assert printed.endswith("TorchServe is not currently running.\n")
            if text.isdigit():
                assert printed.startswith("Removing orphan pid file.\n")
                assert not place.pid_file.exists()
        assert bystander.poll() is None
        assert bystander.stdin is not None
        bystander.stdin.close()
    place.pid_file.unlink(missing_ok=True)


def test_a_background_server_s_life(place: Place) -> None:
    """Start returns when requests are accepted; one server per TMPDIR; stop waits for its end."""
    place.pid_file.write_text("4194304")
    code, printed = place.start()
    assert code == 0, printed
    assert printed.startswith("Removing orphan pid file.\nModel server started.")
    assert printed.count("Removing") == 1
    pid = int(place.pid_file.read_text())
    assert httpx.get(f"{place.inference}/ping").json() == {"status": "Healthy"}
    wait_until(place.answers, 20)
    workers = children(pid)
    assert len(workers) == 2  # the zygote and one worker

    code, printed = place.start()
    assert code == 1
    words = "TorchServe is already running, please use torchserve --stop to stop TorchServe."
    assert printed.startswith(words)
    assert str(pid) in printed

    assert place.run("--stop") == (0, "TorchServe has stopped.\n")
    assert not Path(f"/proc/{pid}/stat").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text()
    assert not place.pid_file.exists()
    assert not place.answers()
    wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), 5)

    assert '"POST /predictions/echo HTTP/1.1" 200 ' in place.log("access_log.log")
    server_log = place.log("ts_log.log")
    assert "Model server started." in server_log
    assert "Model server stopped." in server_log
    assert "ignored (for TorchServe's JVM only): vmargs" in server_log
    assert "ignored (not a known key): foo" in server_log
    assert (place.root / "logs" / "model_log.log").exists()


def test_sigterm_under_load_loses_nothing(place: Place, gate: Gate) -> None:
    """What was accepted is answered, new connections are refused, the exit is clean (G9)."""
    assert place.start()[0] == 0
    wait_until(place.answers, 20)
    pid = int(place.pid_file.read_text())
    url = f"{place.inference}/predictions/echo"
    headers = {"x-do": "gate", "x-file": str(gate.file)}
    queue = f"http://127.0.0.1:{place.ports[1]}/models/echo"
    with ThreadPoolExecutor(max_workers=12) as threads:
        running = threads.submit(httpx.post, url, headers=headers, timeout=30)
        gate.wait_entered()
        queued = [threads.submit(httpx.post, url, timeout=30) for _ in range(8)]
        wait_until(lambda: httpx.get(queue).json()[0]["jobQueueStatus"]["pendingRequests"] == 8, 10)
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not place.answers_at_all(), 10)
        gate.open()
        assert [one.result(20).status_code for one in (running, *queued)] == [200] * 9
    wait_until(lambda: not place.pid_file.exists(), 20)
    assert not children(pid)


def test_a_second_sigterm_does_not_wait_for_a_handler_that_hangs(place: Place, gate: Gate) -> None:
    """The first waits for it, the second ends it; no process stays (G9)."""
    assert place.start()[0] == 0
    wait_until(place.answers, 20)
    pid = int(place.pid_file.read_text())
    everybody = children(pid)
    headers = {"x-do": "gate", "x-file": str(gate.file)}
    with ThreadPoolExecutor() as threads:
        asking = threads.submit(
            httpx.post, f"{place.inference}/predictions/echo", headers=headers, timeout=30
        )
        gate.wait_entered()
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not place.answers_at_all(), 10)
        assert place.pid_file.exists()
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not place.pid_file.exists(), 10)
        assert asking.exception(20) is not None or asking.result().status_code == 503
    wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in everybody), 10)


@pytest.mark.parametrize("foreground", [False, True])
def test_a_port_in_use_is_told_in_one_line(place: Place, foreground: bool) -> None:
    """Exit code 1, the key, the address; nothing runs, no pid file stays."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", place.ports[1]))
        taken.listen()
        code, printed = place.start(*["--foreground"] * foreground)
    assert code == 1
    told = [line for line in printed.splitlines() if "[WARN ]" not in line]  # the log, in front
    assert len(told) == 1
    assert told[0].startswith(
        f"Cannot bind management_address to http://127.0.0.1:{place.ports[1]}"
    )
    assert not place.pid_file.exists()


def test_foreground_with_frameworks(tmp_path: Path) -> None:
    """The default preload: stays attached, says when it is up, ends by SIGINT with exit code 0."""
    place = Place(tmp_path / "place", preload="")
    with subprocess.Popen(
        [sys.executable, "-m", "flambeau.cli.torchserve", "--foreground", "--model-store", "store",
         "--models", "all", "--ncs", "--disable-token-auth", "--log-config", "config.properties"],
        cwd=place.root, env=place.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True,
    ) as server:  # fmt: skip
        assert server.stdout is not None
        assert "Model server started.\n" in iter(server.stdout.readline, "")  # the log is there too
        assert int(place.pid_file.read_text()) == server.pid
        wait_until(place.answers, 60)
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
    assert not place.pid_file.exists()
    assert re.search(r"Zygote \d+ is ready: \{'torch': ", place.log("ts_log.log"))
    assert "Accepted and ignored: --log-config" in place.log("ts_log.log")
