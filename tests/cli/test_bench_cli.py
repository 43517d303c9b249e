"""`flambeau bench` as it is used: the command in a process of its own, a real server."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from flambeau.testing.echo import free_ports, waiting, write_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until

COMMAND = str(Path(sys.executable).with_name("flambeau"))

# Writes down what it is sent; later requests may wait for a file, or fail.
RECORDER = """
import json, os, time
from ts.utils.util import PredictionException

def handle(data, context):
    if data is None:
        return None
    answers = []
    for index, row in enumerate(data):
        headers = context.get_all_request_header(index)
        body = next(iter(row.values()))
        kept = body.decode() if isinstance(body, (bytes, bytearray)) else body
        log = headers.get("x-log", "")
        first = bool(log) and not os.path.exists(log)
        if log:
            with open(log, "a") as file:
                file.write(json.dumps([headers.get("content-type"), kept]) + "\\n")
        gate = headers.get("x-gate")
        while gate and not first and not os.path.exists(gate):
            time.sleep(0.005)
        failing = headers.get("x-fail")
        answers.append(PredictionException("no", int(failing)) if failing and not first else "ok")
    return answers
"""


class Bench:
    """The command against the recorder, in a folder of its own."""

    def __init__(self, server: RunningServer, folder: Path) -> None:
        self.server = server
        self.url = f"{server.inference}/predictions/recorder"
        self.folder = folder
        self.log = folder / "log"

    def start(self, *arguments: object, url: str = "") -> "subprocess.Popen[str]":
        words = [COMMAND, "bench", url or self.url, "--warm-up", "0", "--json", "out.json"]
        words += ["-H", f"x-log: {self.log}", *map(str, arguments)]
        return subprocess.Popen(
            words, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *arguments: object, url: str = "") -> tuple[int, str, str]:
        with self.start(*arguments, url=url) as process:
            out, error = process.communicate(timeout=60)
        return process.returncode, out, error

    @property
    def runs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((self.folder / "out.json").read_text())["runs"]
        return found

    def received(self) -> list[tuple[str, Any]]:
        """(content type, body) of each request, the first included that checks the server."""
        return [tuple(json.loads(line)) for line in self.log.read_text().splitlines()]


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("recorder")
    write_model(root / "store", "recorder", RECORDER)
    with running_server(
        root / "store", root / "cache", load_models=("recorder",), default_workers_per_model=1
    ) as server:
        wait_until(lambda: bool(server.server.core.registry.names()))
        yield server


@pytest.fixture
def bench(recorder: RunningServer, tmp_path: Path) -> Bench:
    return Bench(recorder, tmp_path)


def test_a_closed_loop_sends_as_many_as_asked(bench: Bench) -> None:
    """One more comes first: it checks the server and is not counted."""
    code, out, error = bench.run("--clients", 3, "--requests", 20)
    assert (code, error) == (0, "")
    run = bench.runs[0]
    assert run["load"] == {"loop": "closed", "clients": 3}
    assert (run["requests"], run["succeeded"], run["errors"]) == (20, 20, {})
    assert len(bench.received()) == 21
    latency = run["latency_ms"]
    assert 0 < latency["p50"] <= latency["p99"] <= latency["max"] < run["seconds"] * 1000
    assert run["throughput"] == pytest.approx(20 / run["seconds"])
    assert run["whole"]["client_cpu_seconds"] > 0
    assert run["bytes_received"] == 20 * len("ok")
    assert "coordinated omission" in out
    assert "p99.9" in out


def test_an_open_loop_counts_from_when_a_request_was_due(bench: Bench, tmp_path: Path) -> None:
    """While the server is held, requests go on becoming due; each waits in its latency, none is left out."""
    gate = tmp_path / "gate"
    arguments = ("--rate", 50, "--arrivals", "uniform", "--requests", 20, "-H", f"x-gate: {gate}")
    with bench.start(*arguments) as process:
        wait_until(lambda: waiting(bench.server, "recorder") >= 19)
        gate.touch()
        out, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "")
    run = bench.runs[0]
    assert (run["requests"], run["succeeded"]) == (20, 20)
    # the last was due 19/50 s after the first, and all were held until then
    assert run["latency_ms"]["max"] >= 0.9 * 19 / 50 * 1000
    assert run["latency_ms"]["max"] > run["latency_ms"]["p50"] > run["latency_ms"]["max"] / 4
    assert run["sent_late_ms"]["p50"] < run["latency_ms"]["p50"]
    assert "from the moment a request was due" in out


def test_a_duration_bounds_the_load(bench: Bench) -> None:
    """Requests that were due within it are waited for."""
    assert bench.run("--rate", 40, "--duration", 0.5)[0] == 0
    run = bench.runs[0]
    assert run["seconds"] == pytest.approx(0.5, abs=0.2)
    assert run["requests"] == run["succeeded"] > 0


def test_texts_are_escaped_into_a_json_template(bench: Bench) -> None:
    """Whatever they hold; the content type is JSON then."""
    texts = ['say "hi"\\', "snow ☃ and {text}"]
    (bench.folder / "texts.txt").write_text("\n".join([texts[0], "", texts[1]]) + "\n")
    template = '{"inputs": "{text}", "again": ["{text}"]}'
    code, _, error = bench.run("--file", "texts.txt", "--body", template, "-n", 2, "-c", 1)
    assert (code, error) == (0, "")
    documents = [
        json.loads(body) if isinstance(body, str) else body for _, body in bench.received()
    ]
    assert documents[1:] == [{"inputs": text, "again": [text]} for text in texts]
    assert {kind for kind, _ in bench.received()} == {"application/json"}


def test_texts_of_jsonl_and_a_template_from_a_file(bench: Bench) -> None:
    """Strings or objects with a `text`; a content type of one's own is sent."""
    (bench.folder / "texts.jsonl").write_text('"one"\n{"text": "two", "label": 1}\n')
    (bench.folder / "body").write_text("<{text}>")
    arguments = ("--file", "texts.jsonl", "--body", "@body", "--content-type", "text/x-own")
    assert bench.run(*arguments, "-n", 3, "-c", 1)[0] == 0
    assert bench.received()[1:] == [("text/x-own", f"<{word}>") for word in ("one", "two", "one")]


def test_generated_texts_have_the_lengths_asked_for(bench: Bench) -> None:
    """In words; the same texts for the same seed."""
    arguments = ("--lengths", "uniform:3-5", "-n", 10, "-c", 1)
    assert bench.run(*arguments)[0] == 0
    first = bench.received()
    assert {len(text.split()) for _, text in first} <= {3, 4, 5}
    assert len({text for _, text in first[1:]}) > 1
    bench.log.unlink()
    assert bench.run(*arguments)[0] == 0
    assert bench.received() == first


def test_errors_are_counted_by_status(bench: Bench) -> None:
    """Their latencies are left out, and a load without a success ends with 1."""
    code, out, error = bench.run("-n", 5, "-c", 1, "-H", "x-fail: 507")
    run = bench.runs[0]
    assert (run["requests"], run["succeeded"], run["errors"]) == (5, 0, {"507": 5})
    assert run["latency_ms"] == {}
    assert "errors: 507" in out
    assert code == 1
    assert error.count("\n") == 1


def test_a_request_that_takes_too_long_counts_as_one(bench: Bench, tmp_path: Path) -> None:
    """`--timeout` counts from when it was due; the rest of the load goes on."""
    gate = tmp_path / "gate"
    try:
        code, _, _ = bench.run("-n", 2, "-c", 1, "--timeout", 0.3, "-H", f"x-gate: {gate}")
    finally:
        gate.touch()
    assert code == 1
    assert bench.runs[0]["errors"] == {"time-out": 2}


def test_an_interrupt_reports_what_was_measured_so_far(bench: Bench) -> None:
    """The exit code is a shell's for Ctrl-C."""
    with bench.start("--duration", 600, "--clients", 1) as process:
        wait_until(lambda: bench.log.exists() and len(bench.received()) > 5)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, "")
    assert "throughput" in out
    run = bench.runs[0]
    assert run["interrupted"]
    assert run["succeeded"] >= 4
    assert run["seconds"] < 60


def test_a_sweep_measures_one_load_after_another(bench: Bench) -> None:
    """A row and a run for each value; the plot has the percentiles."""
    code, out, _ = bench.run("--sweep", "clients=1,2", "-n", 5, "--plot", "plot.svg")
    assert code == 0
    assert [run["load"]["clients"] for run in bench.runs] == [1, 2]
    assert "1 client " in out
    assert "2 clients " in out
    plot = ElementTree.parse(bench.folder / "plot.svg")
    assert {"p50", "p99", "clients"} <= {each.text for each in plot.iter()}


def test_a_sweep_over_lengths(bench: Bench) -> None:
    """`words=` generates texts of each length."""
    assert bench.run("--sweep", "words=2,7", "-n", 3, "-c", 1)[0] == 0
    lengths = [len(text.split()) for _, text in bench.received()[1:]]
    assert lengths == [2, 2, 2, 7, 7, 7]


def test_the_peak_is_found_and_told(bench: Bench) -> None:
    """The best run is in the JSON as well."""
    code, out, _ = bench.run("--find-peak", "--duration", 0.2)
    assert code == 0
    document = json.loads((bench.folder / "out.json").read_text())
    best = max(run["throughput"] for run in document["runs"])
    assert document["peak"]["throughput"] == best
    assert "peak: " in out


def test_the_server_s_cpu_time_is_measured(bench: Bench) -> None:
    """Of the process that listens, or that is named, with all its workers."""
    for option in (("--server-cpu",), ("--pid", os.getpid())):
        code, out, _ = bench.run(*option, "-n", 200)
        assert code == 0
        assert bench.runs[0]["whole"]["server_cpu_seconds"] > 0
        assert bench.runs[0]["server_cpu_ms_per_request"] > 0
        assert "server CPU a request" in out


def test_what_is_wrong_with_every_request_is_told_once(bench: Bench) -> None:
    """Before any load: nothing listens there, or the server's own words."""
    code, out, error = bench.run(url=f"http://127.0.0.1:{free_ports(1)[0]}/predictions/x")
    assert (code, out) == (1, "")
    assert "connection refused" in error
    assert error.count("\n") == 1
    code, out, error = bench.run(url=f"{bench.server.inference}/predictions/nobody")
    assert (code, out) == (1, "")
    assert "404" in error
    assert "Model not found: nobody" in error
    assert error.count("\n") == 1
    assert not bench.log.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--text", "a", "--lengths", "fixed:3"), "only one of them"),
        (("--file", "missing.txt"), "missing.txt"),
        (("--lengths", "long"), "lognormal:"),
        (("--sweep", "batch=1"), "rate=10,20,40"),
        (("--find-peak", "--rate", "5"), "--find-peak"),
        (("--p99", "5"), "--find-peak"),
        (("--body", '{"text": {text}}'), "quote the place"),
        (("--body", "@missing"), "missing"),
        (("-H", "nonsense"), "Name: value"),
        (("-H", "x-é中: 1"), "characters"),
        (("--pid", "4194305"), "4194305"),
        (("--text", "a", "--sweep", "words=1,2"), "words="),
        (("-n", "1", "--json", "missing/out.json"), "cannot be written"),
    ],
)
def test_wrong_usage_is_one_line(bench: Bench, arguments: tuple[str, ...], said: str) -> None:
    """That names what is wrong and what is right."""
    code, _, error = bench.run(*arguments)
    assert code == 1
    assert said in error
    assert error.count("\n") == 1


def test_the_token_is_found_as_predict_finds_it(tmp_path: Path) -> None:
    """From the key file of this folder, the variable or the flag; without, the answer says what to do."""
    write_model(tmp_path / "store", "recorder", RECORDER)
    with running_server(
        tmp_path / "store",
        tmp_path / "cache",
        disable_token_authorization=False,
        key_file=tmp_path / "key_file.json",
        load_models=("recorder",),
        default_workers_per_model=1,
    ) as server:
        wait_until(lambda: bool(server.server.core.registry.names()))
        assert Bench(server, tmp_path).run("-n", 1)[0] == 0
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        bench = Bench(server, elsewhere)
        code, _, error = bench.run("-n", 1)
        assert code == 1
        assert "FLAMBEAU_TOKEN" in error
        key = json.loads((tmp_path / "key_file.json").read_text())["inference"]["key"]
        assert bench.run("-n", 1, "--token", key)[0] == 0
