"""A worker is confined before its handler is imported, or it is not started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flambeau.config import ServerConfig, private_folder, worker_environment
from flambeau.errors import LoadError
from flambeau.ipc.messages import Load
from flambeau.serving.model_yaml import ModelYaml
from flambeau.serving.sandboxes import sandbox_level
from flambeau.types import ModelKey
from flambeau.worker import landlock, sandbox

KEY = ModelKey("m", "1.0")

needs_strict = pytest.mark.skipif(bool(sandbox.unavailable()), reason="no Landlock ABI 6")


def confined(level: str, tmp_path: Path, code: str) -> str:
    """What `code` prints in a process at this level."""
    program = (
        "from flambeau.worker.sandbox import confine\n"
        "from flambeau.ipc.messages import Load\n"
        f"confine(Load('m', '1.0', {str(tmp_path)!r}, '', 1, sandbox={level!r}), -1)\n{code}"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs_strict
def test_strict_reads_the_model_and_writes_its_own_folder_only(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_text("w")
    (tmp_path / "key").write_text("k")
    code = (
        "import os, tempfile\n"
        f"print(open({str(model / 'weights')!r}).read())\n"
        "with tempfile.NamedTemporaryFile() as file: print(file.write(b'x'))\n"
        f"for path in ({str(tmp_path / 'key')!r}, {str(model / 'new')!r}):\n"
        "    try: open(path, 'r' if path.endswith('key') else 'w'); print('open')\n"
        "    except PermissionError: print('refused')\n"
        "import shutil; print(os.getpid())\n"
    )
    *told, pid = confined("strict", model, code).split()
    private_folder(int(pid)).rmdir()
    assert told == ["w", "1", "refused", "refused"]


@needs_strict
def test_strict_leaves_threads_but_no_processes_and_no_sockets(tmp_path: Path) -> None:
    code = (
        "import os, socket, threading\n"
        "thread = threading.Thread(target=print, args=('thread',)); thread.start(); thread.join()\n"
        "for job in (os.fork, socket.socket):\n"
        "    try: job(); print('open')\n"
        "    except PermissionError: print('refused')\n"
        "socket.socketpair(); print(os.getpid())\n"
    )
    *told, pid = confined("strict", tmp_path, code).split()
    private_folder(int(pid)).rmdir()
    assert told == ["thread", "refused", "refused"]


def test_basic_takes_core_files_privileges_and_descriptors_of_others(tmp_path: Path) -> None:
    code = (
        "import resource\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE)[0])\n"
        "print([x for x in open('/proc/self/status') if x.startswith('NoNewPrivs')][0].split()[1])"
    )
    assert confined("basic", tmp_path, code).split() == ["0", "1"]


def test_strict_fails_where_the_kernel_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: 3)
    monkeypatch.setattr(sandbox, "_basic", lambda _: None)  # this process goes on
    load = Load("m", "1.0", os.curdir, "", 1, sandbox="strict")
    with pytest.raises(LoadError, match="Landlock ABI 3, 6 is needed"):
        sandbox.confine(load, -1)


def test_strict_fails_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_basic", lambda _: None)
    load = Load("m", "1.0", os.curdir, "", 1, gpu=0, sandbox="strict")
    with pytest.raises(LoadError, match="GPU"):
        sandbox.confine(load, -1)


def test_a_models_file_raises_the_level_and_never_lowers_it() -> None:
    strict = ServerConfig(sandbox="strict")
    assert sandbox_level(ModelYaml(sandbox="none"), strict, KEY) == "strict"
    assert sandbox_level(ModelYaml(sandbox="strict"), ServerConfig(), KEY) == "strict"
    assert sandbox_level(ModelYaml(), ServerConfig(), KEY) == "basic"
    single = ServerConfig(models={"m": {"1.0": {"sandbox": "none"}}})
    assert sandbox_level(ModelYaml(), single, KEY) == "none"


def test_workers_get_no_variables_that_speak_of_secrets_unless_told() -> None:
    server = {"AWS_REGION": "x", "HF_TOKEN": "t", "PATH": "/bin", "TOKENIZERS_PARALLELISM": "1"}
    kept = worker_environment(ServerConfig(), server)
    assert "PATH" in kept
    assert "TOKENIZERS_PARALLELISM" in kept
    assert not {"AWS_REGION", "HF_TOKEN"} & set(kept)
    passed = worker_environment(ServerConfig(pass_env_vars=("AWS_.*",)), server)
    assert "AWS_REGION" in passed
    assert "HF_TOKEN" not in passed
