"""The child side alone: a zygote process and its workers, spoken to over their real sockets."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flambeau.errors import ErrorKind
from flambeau.ipc.channel import BlockingChannel, send_with_descriptor
from flambeau.ipc.framing import FrameDecoder, encode
from flambeau.ipc.messages import (
    Done,
    Exited,
    Failed,
    Fork,
    Forked,
    FromWorker,
    FromZygote,
    Load,
    Loaded,
    LoadFailed,
    Log,
    Measured,
    Output,
    Run,
    Stop,
    ZygoteReady,
)
from flambeau.testing.echo import alive, write_model
from flambeau.testing.waiting import wait_until
from flambeau.types import Chunk, InferenceRequest

MODULE = ("-m", "flambeau.worker")

SMALL_FRAMES = """
import flambeau.ipc.framing, flambeau.worker.__main__
flambeau.ipc.framing.MAX_FRAME_BYTES = 100_000
flambeau.worker.__main__.main()
"""
"""A zygote whose limit on one message is reached without a gigabyte of memory."""


class ZygoteProcess:
    """A zygote and the server's end of its control socket."""

    def __init__(
        self, preload: str = "", stderr: int | None = None, program: tuple[str, ...] = MODULE
    ) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.control.settimeout(60)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, *program, str(theirs.fileno()), preload],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=stderr,
            )
        channel: BlockingChannel[FromZygote] = BlockingChannel(self.control, FromZygote)  # type: ignore[arg-type]  # a union is no `type`
        self.messages = channel.receive()

    def fork(self, number: int) -> "WorkerEnd":
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.settimeout(60)
        with theirs:
            send_with_descriptor(self.control, Fork(number), theirs.fileno())
        return WorkerEnd(ours)

    def close(self) -> int:
        self.control.close()
        return self.process.wait(60)


class WorkerEnd:
    """The server's end of a worker's socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        channel: BlockingChannel[FromWorker] = BlockingChannel(sock, FromWorker)  # type: ignore[arg-type]  # a union is no `type`
        self.send = channel.send
        self.messages = (
            message for message in channel.receive() if not isinstance(message, Log | Measured)
        )

    def load(self, folder: Path) -> FromWorker:
        self.send(Load("m", "1.0", str(folder), "handler.py:handle", 4))
        return next(self.messages)


@pytest.fixture
def zygote() -> Iterator[ZygoteProcess]:
    running = ZygoteProcess()
    ready = next(running.messages)
    assert ready == ZygoteReady(running.process.pid, 0, {})
    yield running
    assert running.close() == 0


def item(name: str, **headers: str) -> InferenceRequest:
    return InferenceRequest(
        name, {key.replace("_", "-"): value for key, value in headers.items()}, []
    )


def test_a_worker_s_whole_life(zygote: ZygoteProcess, tmp_path: Path) -> None:
    """Forked, Loaded, chunks and errors per item, Done, and exit status 0 on Stop."""
    worker = zygote.fork(7)
    forked = next(zygote.messages)
    assert isinstance(forked, Forked)
    assert forked.worker == 7
    loaded = worker.load(write_model(tmp_path, "m"))
    assert isinstance(loaded, Loaded)
    assert loaded.seconds > 0
    worker.send(Run(1, [item("a"), item("b", x_do="error-item")]))
    answers = [next(worker.messages) for _ in range(3)]
    outputs = [message for message in answers if isinstance(message, Output)]
    assert [(message.batch, message.index, message.chunk.last) for message in outputs] == [
        (1, 0, True)
    ]
    assert [m.message for m in answers if isinstance(m, Failed)] == ["only this one"]
    assert isinstance(answers[-1], Done)
    worker.send(Stop())
    assert list(worker.messages) == []
    assert next(zygote.messages) == Exited(7, forked.pid, 0)
    worker.sock.close()


def test_the_end_of_a_worker_is_told_with_its_signal(zygote: ZygoteProcess, tmp_path: Path) -> None:
    """Each end belongs to its own worker."""
    folder = write_model(tmp_path, "m")
    workers = [zygote.fork(number) for number in (1, 2)]
    pids = {}
    for _ in workers:
        forked = next(zygote.messages)
        assert isinstance(forked, Forked)
        pids[forked.worker] = forked.pid
    for worker in workers:
        assert isinstance(worker.load(folder), Loaded)
    os.kill(pids[2], signal.SIGSEGV)
    assert next(zygote.messages) == Exited(2, pids[2], -signal.SIGSEGV)
    workers[0].send(Run(1, [item("a", x_do="exit")]))
    assert next(zygote.messages) == Exited(1, pids[1], 3)
    for worker in workers:
        worker.sock.close()


def test_a_worker_whose_model_fails_says_why_and_exits(
    zygote: ZygoteProcess, tmp_path: Path
) -> None:
    """One LoadFailed, then exit code 1."""
    worker = zygote.fork(1)
    assert isinstance(next(zygote.messages), Forked)
    failed = worker.load(write_model(tmp_path, "m", "raise ValueError('no')\n"))
    assert isinstance(failed, LoadFailed)
    assert failed.message == "ValueError: no (handler.py:1)"
    ended = next(zygote.messages)
    assert isinstance(ended, Exited)
    assert ended.status == 1
    worker.sock.close()


@pytest.mark.parametrize(
    "last_words", [b"", encode(Run(1, []))[:-1], b"\xff\xff\xff\xff", b"\0\0\0\1\xc1"]
)
def test_a_worker_ends_when_the_server_dies_or_talks_nonsense(
    zygote: ZygoteProcess, tmp_path: Path, last_words: bytes
) -> None:
    """At once, whatever its handler is doing."""
    worker = zygote.fork(1)
    assert isinstance(next(zygote.messages), Forked)
    assert isinstance(worker.load(write_model(tmp_path, "m")), Loaded)
    worker.send(Run(1, [item("a", x_do="hang")]))
    worker.sock.sendall(last_words)
    if last_words[:4] in (b"", encode(Run(1, []))[:4]):
        worker.sock.close()
    assert isinstance(next(zygote.messages), Exited)
    worker.sock.close()


def test_an_answer_over_the_limit_is_an_error_and_the_worker_lives(tmp_path: Path) -> None:
    """Its neighbours and the next batch are answered by the same process."""
    zygote = ZygoteProcess(program=("-c", SMALL_FRAMES))
    assert isinstance(next(zygote.messages), ZygoteReady)
    worker = zygote.fork(1)
    assert isinstance(worker.load(write_model(tmp_path, "m")), Loaded)
    for batch in (1, 2):
        sizes = ("10", "200000", "20")
        worker.send(Run(batch, [item(size, x_do="bytes", x_size=size) for size in sizes]))
        answers = [next(worker.messages) for _ in range(4)]
        assert [len(m.chunk.body) for m in answers if isinstance(m, Output)] == [10, 20]
        (failed,) = (message for message in answers if isinstance(message, Failed))
        assert (failed.index, failed.kind) == (1, ErrorKind.HANDLER_FAILED)
        assert "over the limit of 100000" in failed.message
        assert isinstance(answers[-1], Done)
    worker.sock.close()
    assert zygote.close() == 0


def test_answers_and_the_end_of_their_batch_come_in_one_piece(
    zygote: ZygoteProcess, tmp_path: Path
) -> None:
    """Who has an answer finds the worker free: the next request is not refused for want of one."""
    worker = zygote.fork(1)
    assert isinstance(next(zygote.messages), Forked)
    assert isinstance(worker.load(write_model(tmp_path, "m")), Loaded)
    worker.send(Run(1, [item("a"), item("b", x_do="error-item"), item("c")]))
    decoder: FrameDecoder[FromWorker] = FrameDecoder(FromWorker)  # type: ignore[arg-type]  # a union is no `type`
    kinds: list[type] = []
    while not {Output, Failed} & set(kinds):
        kinds = [type(message) for message in decoder.feed(worker.sock.recv(65536))]
    assert kinds[-4:] == [Output, Failed, Output, Done]
    worker.sock.close()
    assert isinstance(next(zygote.messages), Exited)


def test_a_child_that_ends_after_the_service_is_no_error(tmp_path: Path) -> None:
    """While the interpreter winds up, the signal of a child's end finds no closed socket."""
    source = "import atexit, os\natexit.register(lambda: os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0))\n"
    (tmp_path / "late_child.py").write_text(source)
    start = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from flambeau.worker.__main__ import main; main()"
    zygote = ZygoteProcess("late_child", subprocess.PIPE, ("-c", start))
    assert isinstance(next(zygote.messages), ZygoteReady)
    zygote.control.close()
    _, printed = zygote.process.communicate(timeout=60)
    assert (zygote.process.returncode, printed) == (0, b"")


def test_zygote_and_workers_end_with_the_server(tmp_path: Path) -> None:
    """The kernel closes a dead server's sockets: nobody is left behind."""
    zygote = ZygoteProcess()
    assert isinstance(next(zygote.messages), ZygoteReady)
    worker = zygote.fork(1)
    forked = next(zygote.messages)
    assert isinstance(forked, Forked)
    assert isinstance(worker.load(write_model(tmp_path, "m")), Loaded)
    worker.send(Run(1, [item("a", x_do="hang")]))
    worker.sock.close()
    assert zygote.close() == 0
    wait_until(lambda: not alive(forked.pid))


def test_what_is_preloaded_is_imported_once_and_shared(tmp_path: Path) -> None:
    """Workers find the module imported; one that cannot be imported is told and left to them."""
    (tmp_path / "counted.py").write_text("import os\nimported_by = os.getpid()\n")
    source = "import counted\n\ndef handle(data, context):\n    return [str(counted.imported_by)] * len(data or [])\n"
    folder = write_model(tmp_path, "m", source)
    sibling = os.environ | {"PYTHONPATH": str(tmp_path)}
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs, control:
        control.settimeout(60)
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "flambeau.worker",
                str(theirs.fileno()),
                "no_such_module,counted",
            ],
            pass_fds=[theirs.fileno()],
            env=sibling,
            stderr=subprocess.PIPE,
            text=True,
        )
        theirs.close()
        ours, worker_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.settimeout(60)
        send_with_descriptor(control, Fork(1), worker_end.fileno())  # waits for the imports
        worker_end.close()
        worker = WorkerEnd(ours)
        assert isinstance(worker.load(folder), Loaded)
        worker.send(Run(1, [item("a")]))
        assert next(worker.messages) == Output(1, 0, Chunk(str(process.pid).encode()))
        ours.close()
    assert "no_such_module" in process.communicate(timeout=60)[1]
    assert process.returncode == 0
