"""The drop-in `torchserve` command as a process: messages, exit codes, background servers (section 2)."""

import os
import re
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from flambeau.testing.commands import run_command
from flambeau.testing.echo import Gate, alive, children, free_ports, write_model
from flambeau.testing.waiting import wait_until

OTHER_KEYS = "disable_token_authorization=true\nfoo=1\n"


LOGGED = re.compile(r"\d{4}-\d\d-\d\dT|    ")
"""How a line of the log begins, and how a record goes on."""


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
        self.config.write_text("".join(lines) + preload + OTHER_KEYS)
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
        done = self.process("flambeau.cli.torchserve", *arguments)
        return done.returncode, done.stdout

    def process(self, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a module as a program, in this place, to its end."""
        command = [sys.executable, "-m", module, *arguments]
        return run_command(command, self.root, self.environment)

    def start(self, *arguments: str) -> tuple[int, str]:
        return self.run("--start", "--model-store", "store", "--models", "echo", *arguments)

    def log(self, name: str) -> str:
        return (self.root / "logs" / name).read_text()

    def logs(self, text: str, name: str = "ts_log.log") -> bool:
        """Wait until a log file holds a text: a thread writes it."""
        wait_until(lambda: text in self.log(name))
        return True

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
    """TorchServe's words on stdout, and ours on stderr; `python -m ts.model_server` says the same."""
    for module in ("flambeau.cli.torchserve", "ts.model_server"):
        done = place.process(module, "--version")
        assert done.returncode == 0
        assert done.stdout == "TorchServe Version is 0.12.0\n"
        assert re.match(r"This is Flambeau [\d.]+", done.stderr)


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
        (
            ["--model-store", "store", "--log-config", "no"],
            "--log-config file not found: {root}/no",
        ),
        (
            ["--model-store", "store", "--cpp-log-config", "no"],
            "--cpp-log-config file not found: {root}/no",
        ),
    ],
)
def test_mistakes_are_told_in_torchserve_s_words(
    place: Place, arguments: list[str], message: str
) -> None:
    """One line to stdout, exit code 1 (section 2.2). Log files are named by their real path."""
    place.config.unlink()
    root = os.path.realpath(place.root)
    assert place.run(*arguments) == (1, message.format(root=root) + "\n")


def test_a_temporary_folder_that_is_none(place: Place) -> None:
    """`TEMP` names a folder, or the start ends with exit code 1."""
    place.environment["TEMP"] = "no"
    message = "Invalid temp directory: no, please check TEMP environment variable.\n"
    assert place.start() == (1, message)


def test_the_environment_s_configuration_file_beats_the_flag(place: Place) -> None:
    """`TS_CONFIG_FILE` before `--ts-config` (section 2.1)."""
    (place.root / "other").write_text("job_queue_size=none\n")
    assert place.start("--ts-config", "other")[1].startswith("Invalid configuration: job_queue")
    place.environment["TS_CONFIG_FILE"] = "absent"
    assert place.start("--ts-config", "other") == (1, "--ts-config file not found: absent\n")


def test_help_speaks_of_every_flag(place: Place) -> None:
    """`--help` names all of TorchServe's flags, each with its short form, and exits with 0."""
    code, printed = place.run("--help")
    assert code == 0
    for flag in (
        *("-v", "--version", "--start", "--stop", "--ts-config", "--model-store", "--models"),
        *("--workflow-store", "--log-config", "--cpp-log-config", "--foreground", "--ncs"),
        *("--no-config-snapshots", "--plugins-path", "--ppath", "--disable-token-auth", "--dt"),
        "--enable-model-api",
    ):
        assert f"{flag} " in printed or f"{flag}\n" in printed or f"{flag}," in printed, flag


def test_a_wrong_configuration_is_told_by_the_launcher(place: Place) -> None:
    """Not only in a log, as TorchServe does in the background."""
    place.config.write_text("job_queue_size=many\n")
    code, printed = place.start()
    assert code == 1
    assert printed.startswith("Invalid configuration: job_queue_size=many: expected a whole number")
    assert printed.count("\n") == 1


def test_a_background_server_logs_to_the_launcher_s_stdout(place: Place) -> None:
    """As TorchServe's does: a container's log, or a script that reads on, has what comes later."""
    command = [
        sys.executable,
        "-m",
        "flambeau.cli.torchserve",
        "--model-store",
        "store",
        "--models",
        "echo",
    ]
    with subprocess.Popen(
        command, cwd=place.root, env=place.environment, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    ) as launcher:  # fmt: skip
        assert launcher.stdout is not None
        lines = iter(launcher.stdout)
        assert any(line == "Model server started.\n" for line in lines)
        assert launcher.wait(60) == 0
        wait_until(place.answers)
        assert any("POST /predictions/echo" in line for line in lines)
        assert place.run("--stop")[0] == 0
        assert any("Model server stopped." in line for line in lines)


def test_flags_reach_the_server(place: Place) -> None:
    """`--dt` and `--enable-model-api` open what is closed without; what has no effect is told.

    Without them, each start writes a key file into the working directory, and the stop removes it.
    """
    settings = place.config.read_text().replace("disable_token_authorization=true\n", "")
    place.config.write_text(settings)
    (place.root / "log.xml").touch()
    model, listing = (f"http://127.0.0.1:{place.ports[1]}/models{end}" for end in ("?url=echo", ""))
    assert place.run("--start", "--model-store", "store")[0] == 0
    assert (place.root / "key_file.json").is_file()
    assert httpx.get(listing).status_code != 200
    assert place.run("--stop") == (0, "TorchServe has stopped.\n")
    assert not (place.root / "key_file.json").exists()

    flags = ["--dt", "--enable-model-api", "--ppath", "jars", "--cpp-log-config", "log.xml"]
    flags += ["--log-config", "log.xml", "--workflow-store", "tmp", "--ncs"]
    assert place.run("--start", "--model-store", "store", *flags)[0] == 0
    assert httpx.post(model).status_code == 200
    assert len(httpx.get(listing).json()["models"]) == 1
    ignored = "Accepted and ignored: --log-config, --cpp-log-config, --plugins-path"
    assert place.logs(ignored)
    assert not (place.root / "key_file.json").exists()


def test_all_models_of_a_store(place: Place) -> None:
    """`--models ALL`, in any case: every archive and every folder that is not hidden (section 2.4)."""
    store = place.root / "store"
    for name in ("b.mar", ".hidden.mar", "notes.zip"):
        with zipfile.ZipFile(store / name, "w") as archive:
            archive.write(store / "echo" / "handler.py", "handler.py")
    (store / "broken.mar").write_text("no archive")
    assert place.run("--start", "--model-store", "store", "--models", "All")[0] == 0
    url = f"http://127.0.0.1:{place.ports[1]}/models"
    assert [model["modelName"] for model in httpx.get(url).json()["models"]] == ["b", "echo"]
    assert place.logs("Failed to load model: broken.mar")


def test_commands_exclude_each_other(place: Place) -> None:
    """argparse's exit code 2."""
    done = subprocess.run(
        [sys.executable, "-m", "flambeau.cli.torchserve", "--start", "--stop"],
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2


def test_models_in_all_their_forms(place: Place) -> None:
    """Once the server has started, all of them are registered: `/models` lists them (section 2.4).

    Separated by blanks or commas; a name, a file, a folder, an absolute folder; one that fails, an
    empty one and one of no allowed URL are warnings and change nothing else.
    """
    write_model(place.root / "elsewhere", "far")
    with zipfile.ZipFile(place.root / "store" / "my-model.v1.mar", "w") as archive:
        archive.write(place.root / "store" / "echo" / "handler.py", "handler.py")
    items = ["one=echo,two=echo", f"far={place.root / 'elsewhere' / 'far'}", "my-model.v1.mar"]
    items += ["", "none=", "absent.mar", "https://example.org/x.mar?a=b"]
    code, printed = place.run("--model-store", "store", "--models", *items)
    assert code == 0
    assert "Model server started." in printed.splitlines()
    url = f"http://127.0.0.1:{place.ports[1]}/models"
    models = {m["modelName"]: m["modelUrl"] for m in httpx.get(url).json()["models"]}
    assert list(models) == ["far", "my_model_v1", "one", "two"]
    assert models["my_model_v1"] == "my-model.v1.mar"
    assert place.logs("Failed to load model: absent.mar")
    assert place.logs("Failed to load model: https://example.org/x.mar?***")
    assert "none" not in models


def test_stop_without_a_server(place: Place) -> None:
    """Exit code 0. An orphan pid file goes, and is told; another process of its number is let be."""
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
            orphan = text == "4194304"
            assert printed.startswith("Removing orphan pid file.\n") == orphan
            assert place.pid_file.exists() != orphan
        assert bystander.poll() is None
        assert bystander.stdin is not None
        bystander.stdin.close()
    place.pid_file.unlink(missing_ok=True)


def test_a_background_server_s_life(place: Place) -> None:
    """Start returns when requests are accepted; one server per TMPDIR; stop waits for its end."""
    place.pid_file.write_text("4194304")
    with place.config.open("a") as file:
        file.write("vmargs=-Xmx1g\n")
    code, printed = place.start()
    assert code == 0, printed
    assert [line for line in printed.splitlines() if not LOGGED.match(line)] == [
        "Removing orphan pid file.",
        "Warning: TorchServe is using non-default JVM parameters: -Xmx1g",
        "Model server started.",
    ]
    pid = int(place.pid_file.read_text())
    assert httpx.get(f"{place.inference}/ping").json() == {"status": "Healthy"}
    wait_until(place.answers)
    workers = children(pid)
    assert len(workers) == 2  # the zygote and one worker

    again = place.process("ts.model_server", "--model-store", "no")
    assert again.returncode == 1
    words = "TorchServe is already running, please use torchserve --stop to stop TorchServe.\n"
    assert again.stdout == words
    assert str(pid) in again.stderr

    assert place.run("--stop") == (0, "TorchServe has stopped.\n")
    assert not alive(pid)
    assert not place.pid_file.exists()
    assert not place.answers()
    wait_until(lambda: not any(map(alive, workers)))

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
    wait_until(place.answers)
    pid = int(place.pid_file.read_text())
    url = f"{place.inference}/predictions/echo"
    headers = {"x-do": "gate", "x-file": str(gate.file)}
    queue = f"http://127.0.0.1:{place.ports[1]}/models/echo"
    with ThreadPoolExecutor(max_workers=12) as threads:
        running = threads.submit(httpx.post, url, headers=headers, timeout=60)
        gate.wait_entered()
        queued = [threads.submit(httpx.post, url, timeout=60) for _ in range(8)]
        wait_until(lambda: httpx.get(queue).json()[0]["jobQueueStatus"]["pendingRequests"] == 8)
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not place.answers_at_all())
        gate.open()
        assert [one.result(60).status_code for one in (running, *queued)] == [200] * 9
    wait_until(lambda: not place.pid_file.exists())
    assert not children(pid)


def test_a_second_sigterm_does_not_wait_for_a_handler_that_hangs(place: Place, gate: Gate) -> None:
    """The first waits for it, the second ends it; no process stays (G9)."""
    assert place.start()[0] == 0
    wait_until(place.answers)
    pid = int(place.pid_file.read_text())
    everybody = children(pid)
    headers = {"x-do": "gate", "x-file": str(gate.file)}
    with ThreadPoolExecutor() as threads:
        asking = threads.submit(
            httpx.post, f"{place.inference}/predictions/echo", headers=headers, timeout=60
        )
        gate.wait_entered()
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not place.answers_at_all())
        assert place.pid_file.exists()
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not place.pid_file.exists())
        assert asking.exception(60) is not None or asking.result().status_code == 503
    wait_until(lambda: not any(map(alive, everybody)))


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
        f"Failed to bind to address: http://127.0.0.1:{place.ports[1]} (management_address): "
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
        wait_until(place.answers)
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
    assert not place.pid_file.exists()
    assert re.search(r"Zygote \d+ is ready: \{'torch': ", place.log("ts_log.log"))
    assert place.logs("Accepted and ignored: --log-config")
