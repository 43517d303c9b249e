"""Workers of the built-in handler on a CPU are forked from one process that has loaded the model."""

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch
import transformers

from flambeau.testing.echo import (
    alive,
    children,
    describe,
    open_descriptors,
    predict,
    register,
    scale,
    worker_pids,
    write_model,
)
from flambeau.testing.models import tiny_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until
from tests.supervisor.load import HANGS

MEGABYTE = 1024 * 1024


def write_native(folder: Path, **files: str) -> Path:
    """Make a model of the built-in handler of `folder`; `files` are modules by name."""
    (folder / "MAR-INF").mkdir(parents=True, exist_ok=True)
    settings = {"handler": {"task": "text-classification"}}
    (folder / "model-config.yaml").write_text(json.dumps(settings))
    model = {
        "modelName": folder.name,
        "modelVersion": "1.0",
        "handler": "transformers_handler",
        "configFile": "model-config.yaml",
    }
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"model": model}))
    for name, source in files.items():
        (folder / f"{name}.py").write_text(source)
    return folder


def write_pickled(folder: Path) -> int:
    """A model of 50 MB whose weights lie in a pickle: read, not mapped. Returns their size."""
    tiny_model(folder, "text-classification")
    config = transformers.AutoConfig.from_pretrained(folder)
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 512, 2048, 4
    model = transformers.BertForSequenceClassification(config)
    model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    write_native(folder)
    return (folder / "pytorch_model.bin").stat().st_size


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server for models of the built-in handler, whose frameworks are imported by its zygote."""
    store = tmp_path_factory.mktemp("store")
    write_native(tiny_model(store / "tiny", "text-classification"))
    preload = ("flambeau.handlers.preload",)
    with running_server(store, tmp_path_factory.mktemp("cache"), preload=preload) as running:
        yield running


@pytest.fixture
def tiny(native: RunningServer) -> Iterator[RunningServer]:
    """The same server, with one worker of the model `tiny`."""
    assert register(native, "tiny").status_code == 200
    yield native
    httpx.delete(f"{native.management}/models/tiny", timeout=60).raise_for_status()


def zygote_pid(server: RunningServer) -> int:
    process = server.server.core.zygote._process
    assert process is not None
    return process.pid


def template_pid(server: RunningServer, model: str) -> int:
    template = server.server.core.registry.get(model).pool._template
    assert template is not None
    return template.pid


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def private_bytes(pid: int) -> int:
    """Memory that a process shares with no other."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def test_workers_share_the_weights_of_their_model(native: RunningServer) -> None:
    """Also those that are no file's pages: each worker's own memory is far below their size."""
    store = native.server.config.model_store
    assert store is not None
    size = write_pickled(Path(store) / "pickled")
    assert size > 40 * MEGABYTE
    assert register(native, "pickled", initial_workers=2).status_code == 200
    for _ in range(4):
        assert predict(native, "pickled", "the movie was great").status_code == 200
    pids = worker_pids(native, "pickled")
    assert len(pids) == 2
    assert [pid for pid in pids if private_bytes(pid) > size / 2] == []
    httpx.delete(f"{native.management}/models/pickled", timeout=60).raise_for_status()


def test_a_killed_worker_comes_back_from_the_template(tiny: RunningServer) -> None:
    """The template has loaded the model once; every worker is its child, with its own threads."""
    template = template_pid(tiny, "tiny")
    assert parent(template) == zygote_pid(tiny)
    before = predict(tiny, "tiny", "the movie was great").content
    for _ in range(3):
        (pid,) = worker_pids(tiny, "tiny")
        assert parent(pid) == template
        os.kill(pid, signal.SIGKILL)
        assert predict(tiny, "tiny", "the movie was great").content == before
        assert worker_pids(tiny, "tiny") != [pid]
    assert template_pid(tiny, "tiny") == template


def test_workers_outlive_their_template_and_get_a_new_one(tiny: RunningServer) -> None:
    """A dead template is nobody's loss: it is made again when a worker is wanted."""
    first = template_pid(tiny, "tiny")
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not alive(first))
    (pid,) = worker_pids(tiny, "tiny")
    assert predict(tiny, "tiny", "the movie was great").status_code == 200
    assert worker_pids(tiny, "tiny") == [pid]
    assert scale(tiny, "tiny", 2).status_code == 200
    second = template_pid(tiny, "tiny")
    assert second not in (first, -1)
    (new,) = set(worker_pids(tiny, "tiny")) - {pid}
    assert parent(new) == second
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(worker_pids(tiny, "tiny")) == 2)
    assert {parent(pid) for pid in worker_pids(tiny, "tiny")} == {second}


def test_workers_that_keep_dying_get_a_new_template(tiny: RunningServer) -> None:
    """What they have inherited may be to blame: the model is loaded afresh."""
    before = template_pid(tiny, "tiny")
    tiny.server.core.registry.get("tiny").pool.slots[0].failures = 4
    os.kill(worker_pids(tiny, "tiny")[0], signal.SIGKILL)  # the fifth death in a row
    wait_until(lambda: predict(tiny, "tiny", "the movie was great").status_code == 200)
    assert template_pid(tiny, "tiny") not in (before, -1)


def test_template_and_worker_killed_together(tiny: RunningServer) -> None:
    """A request that comes then waits for both replacements."""
    for pid in (template_pid(tiny, "tiny"), *worker_pids(tiny, "tiny")):
        os.kill(pid, signal.SIGKILL)
    assert predict(tiny, "tiny", "the movie was great").status_code == 200


def test_templates_outlive_the_zygote(tiny: RunningServer) -> None:
    """A worker that dies after the zygote is replaced by the same template."""
    template, zygote = template_pid(tiny, "tiny"), zygote_pid(tiny)
    os.kill(zygote, signal.SIGKILL)
    os.kill(worker_pids(tiny, "tiny")[0], signal.SIGKILL)
    assert predict(tiny, "tiny", "the movie was great").status_code == 200
    assert parent(worker_pids(tiny, "tiny")[0]) == template
    wait_until(lambda: zygote_pid(tiny) != zygote and tiny.server.core.zygote.ready.is_set())


def test_workers_use_threads_of_their_own(tiny: RunningServer) -> None:
    """The template has one Python thread and no pool; a worker has the share that it was given."""
    template, (worker,) = template_pid(tiny, "tiny"), worker_pids(tiny, "tiny")
    predict(tiny, "tiny", "the movie was great")
    assert threads(worker) > threads(template)


def test_without_workers_there_is_no_template(tiny: RunningServer) -> None:
    """Scaled to zero, a model holds no memory; scaled up, it is loaded again."""
    before = template_pid(tiny, "tiny")
    assert scale(tiny, "tiny", 0).status_code == 200
    assert children(zygote_pid(tiny)) == set()
    assert scale(tiny, "tiny", 1).status_code == 200
    assert predict(tiny, "tiny", "the movie was great").status_code == 200
    assert template_pid(tiny, "tiny") not in (before, -1)


def test_nothing_is_left_of_a_model_that_is_taken_out(native: RunningServer) -> None:
    """No process and no descriptor, however often it was there, and whoever died meanwhile."""

    def count() -> tuple[int, int]:
        return open_descriptors(), len(children(zygote_pid(native)))

    for number in range(4):
        assert register(native, "tiny", initial_workers=2).status_code == 200
        for pid in worker_pids(native, "tiny"):
            os.kill(pid, signal.SIGKILL)
        if number == 1:
            os.kill(template_pid(native, "tiny"), signal.SIGKILL)
        assert predict(native, "tiny", "the movie was great").status_code == 200
        httpx.delete(f"{native.management}/models/tiny", timeout=60).raise_for_status()
        wait_until(lambda: children(zygote_pid(native)) == set())
        if number == 0:
            before = count()
    wait_until(lambda: all(now <= then for now, then in zip(count(), before, strict=True)))


def test_many_workers_are_started_at_once(native: RunningServer) -> None:
    """All wait for the same load; requests that come meanwhile are answered."""
    with ThreadPoolExecutor() as pool:
        registering = pool.submit(register, native, "tiny", initial_workers=4)
        assert registering.result(60).status_code == 200
        asking = [pool.submit(predict, native, "tiny", "the movie was great") for _ in range(20)]
        assert {one.result(60).status_code for one in asking} == {200}
    assert len(set(worker_pids(native, "tiny"))) == 4
    httpx.delete(f"{native.management}/models/tiny", timeout=60).raise_for_status()


@pytest.mark.parametrize(
    ("source", "status", "reason"),
    [
        ("raise ValueError('no such thing')\n", 500, "ValueError: no such thing (tokenizers.py:1)"),
        ("import os\nos._exit(7)\n", 500, "ended while loading the model: exit code 7"),
        ("raise MemoryError\n", 507, "MemoryError"),
    ],
)
def test_the_reason_of_a_failed_load_reaches_who_registers(
    server: RunningServer, tmp_path: Path, source: str, status: int, reason: str
) -> None:
    """As where workers load themselves: one line, the real cause, and no process is left."""
    write_native(tmp_path / "store" / "broken", tokenizers=source)
    answer = register(server, "broken", initial_workers=2)
    assert answer.status_code == status
    message = answer.json()["message"]
    assert message.startswith("Failed to start workers for model broken version: 1.0: ")
    assert reason in message
    assert "\n" not in message
    assert httpx.get(f"{server.management}/models/broken").status_code == 404
    wait_until(lambda: len(children(zygote_pid(server))) == 1)  # echo's worker alone


def test_what_a_load_prints_and_logs_is_in_the_log(
    server: RunningServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Under the template's name, at its own level, whoever prints."""
    prints = (
        "import logging, os, sys\nprint('printed')\nos.system('echo from a child')\n"
        "logging.getLogger('own').warning('logged')\nraise ImportError('enough')\n"
    )
    write_native(tmp_path / "store" / "chatty", tokenizers=prints)
    with caplog.at_level("INFO", "MODEL_LOG"):
        assert register(server, "chatty").status_code == 500
    records = [record for record in caplog.records if record.name == "MODEL_LOG"]
    told = {(record.levelname, record.getMessage()): record for record in records}
    assert ("INFO", "printed") in told
    assert ("INFO", "from a child") in told
    assert told["WARNING", "logged"].worker == "T-chatty_1.0-stdout"  # type: ignore[attr-defined]


def test_a_load_that_hangs_has_a_time_limit_and_can_be_scaled_away(
    server: RunningServer, tmp_path: Path
) -> None:
    """The template is ended with the last worker that waits for it, or after the limit."""
    write_native(tmp_path / "store" / "slow", tokenizers=HANGS)
    answer = register(server, "slow", startup_timeout=1)
    assert answer.status_code == 500
    assert "longer than 1 s" in answer.json()["message"]
    wait_until(lambda: len(children(zygote_pid(server))) == 1)
    assert register(server, "slow", initial_workers=2, synchronous="false").status_code == 202
    wait_until(lambda: template_pid(server, "slow") > 0)
    assert scale(server, "slow", 0).status_code == 200
    assert describe(server, "slow")["workers"] == []
    wait_until(lambda: len(children(zygote_pid(server))) == 1)
    assert httpx.delete(f"{server.management}/models/slow", timeout=60).status_code == 200


@pytest.mark.parametrize("when", ["loading", "serving"])
def test_a_stop_of_the_server_leaves_no_template_behind(tmp_path: Path, when: str) -> None:
    """Whether its load hangs or its workers serve."""
    before = children(os.getpid())
    store = tmp_path / "own"
    if when == "loading":
        write_native(store / "slow", tokenizers=HANGS)
    else:
        write_native(tiny_model(store / "slow", "text-classification"))
    with running_server(store, tmp_path / "own-cache") as server:
        waits = "true" if when == "serving" else "false"
        assert register(server, "slow", synchronous=waits).status_code in (200, 202)
        wait_until(lambda: template_pid(server, "slow") > 0)
    wait_until(lambda: children(os.getpid()) <= before)


def test_users_handlers_are_not_forked_after_their_load(server: RunningServer) -> None:
    """They may hold threads, sockets and devices: each worker is the zygote's child and loads."""
    zygote = zygote_pid(server)
    assert scale(server, "echo", 2).status_code == 200
    assert {parent(pid) for pid in worker_pids(server, "echo")} == {zygote}
    wait_until(lambda: children(zygote) == set(worker_pids(server, "echo")))


def test_a_handler_derived_from_ours_is_a_user_s(native: RunningServer) -> None:
    """Its own code is not run before a fork."""
    store = native.server.config.model_store
    assert store is not None
    source = (
        "from flambeau.handlers.native import TransformersHandler\n\n"
        "class Mine(TransformersHandler):\n    pass\n"
    )
    folder = write_model(Path(store), "derived", source, handler={"task": "text-classification"})
    tiny_model(folder, "text-classification")
    manifest = folder / "MAR-INF" / "MANIFEST.json"
    manifest.write_text(manifest.read_text().replace("handler.py:handle", "handler.py"))
    assert register(native, "derived").status_code == 200
    assert predict(native, "derived", "the movie was great").status_code == 200
    assert parent(worker_pids(native, "derived")[0]) == zygote_pid(native)
    httpx.delete(f"{native.management}/models/derived", timeout=60).raise_for_status()


def test_a_load_that_leaves_a_thread_is_not_shared(server: RunningServer, tmp_path: Path) -> None:
    """Threads are missing in a fork: the workers load for themselves, as users' handlers do."""
    leaves_a_thread = (
        "import sys, threading\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "here = sys.path.pop(0)\ndel sys.modules['tokenizers']\n"
        "import tokenizers\nsys.path.insert(0, here)\n"
    )
    folder = write_native(tmp_path / "store" / "threaded", tokenizers=leaves_a_thread)
    tiny_model(folder, "text-classification")
    assert register(server, "threaded").status_code == 200
    assert predict(server, "threaded", "the movie was great").status_code == 200
    assert parent(worker_pids(server, "threaded")[0]) == zygote_pid(server)
