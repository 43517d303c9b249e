"""A model's template alone: spoken to over its real socket, as the server does."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from flambeau.errors import ErrorKind
from flambeau.ipc.channel import BlockingChannel, send_with_descriptor
from flambeau.ipc.messages import (
    Exited,
    Fork,
    Forked,
    FromTemplate,
    Load,
    Loaded,
    LoadFailed,
    Log,
    Output,
    Run,
    Stop,
    TemplateReady,
)
from flambeau.testing.echo import alive, write_model
from flambeau.testing.models import tiny_model
from flambeau.testing.waiting import wait_until
from flambeau.types import Field, InferenceRequest
from tests.supervisor.load import HANGS
from tests.supervisor.test_templates import write_native
from tests.worker.test_zygote import WorkerEnd, ZygoteProcess


class TemplateEnd:
    """The server's end of a template's socket."""

    def __init__(self, zygote: ZygoteProcess, folder: Path, handler: str) -> None:
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(150)  # it imports torch
        with theirs:
            send_with_descriptor(zygote.control, Fork(1, template=True), theirs.fileno())
        forked = next(zygote.messages)
        assert isinstance(forked, Forked)
        self.pid = forked.pid
        channel: BlockingChannel[FromTemplate] = BlockingChannel(self.sock, FromTemplate)  # type: ignore[arg-type]  # a union is no `type`
        self.messages = (message for message in channel.receive() if not isinstance(message, Log))
        channel.send(Load("m", "1.0", str(folder), handler, 4))

    def fork(self, number: int) -> WorkerEnd:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.settimeout(60)
        with theirs:
            send_with_descriptor(self.sock, Fork(number), theirs.fileno())
        return WorkerEnd(ours)


@pytest.fixture
def zygote() -> Iterator[ZygoteProcess]:
    running = ZygoteProcess()
    next(running.messages)
    yield running
    assert running.close() == 0


def test_a_template_s_whole_life(zygote: ZygoteProcess, tmp_path: Path) -> None:
    """Ready once loaded; its workers need the files no more, answer, and outlive it."""
    folder = write_native(tiny_model(tmp_path / "m", "text-classification"))
    template = TemplateEnd(zygote, folder, "transformers_handler")
    assert next(template.messages) == TemplateReady(shared=True)
    (folder / "model.safetensors").unlink()
    workers = [template.fork(number) for number in (7, 8)]
    forked = [next(template.messages) for _ in workers]
    pids = [message.pid for message in forked if isinstance(message, Forked)]
    load = Load("m", "1.0", str(folder), "transformers_handler", 4, threads=2)
    for worker in workers:
        worker.send(load)
        loaded = next(worker.messages)
        assert isinstance(loaded, Loaded)
        assert loaded.info["handler"] == "native"
    workers[0].send(Stop())
    assert next(template.messages) == Exited(7, pids[0], 0)
    template.sock.close()
    assert next(zygote.messages) == Exited(1, template.pid, 0)
    text = InferenceRequest("a", {}, [Field("body", "text/plain", b"the movie was great")])
    workers[1].send(Run(1, [text]))
    answer = next(workers[1].messages)
    assert isinstance(answer, Output)
    assert b"score" in answer.chunk.body
    for worker in workers:
        worker.sock.close()
    wait_until(lambda: not alive(pids[1]))


def test_a_user_s_handler_is_not_touched(zygote: ZygoteProcess, tmp_path: Path) -> None:
    """The template says so and ends; nothing of the handler was imported."""
    mark = tmp_path / "imported"
    folder = write_model(tmp_path, "m", f"open({str(mark)!r}, 'w')\n")
    template = TemplateEnd(zygote, folder, "handler.py:handle")
    assert next(template.messages) == TemplateReady(shared=False)
    assert isinstance(next(zygote.messages), Exited)
    assert not mark.exists()
    template.sock.close()


def test_a_model_that_fails_says_why(zygote: ZygoteProcess, tmp_path: Path) -> None:
    """One LoadFailed, then exit code 1."""
    template = TemplateEnd(zygote, write_native(tmp_path / "m"), "transformers_handler")
    failed = next(template.messages)
    assert isinstance(failed, LoadFailed)
    assert failed.kind is ErrorKind.LOAD_FAILED
    assert "No tokenizer" in failed.message
    assert next(zygote.messages) == Exited(1, template.pid, 1)
    template.sock.close()


def test_a_template_ends_when_the_server_dies_while_it_loads(
    zygote: ZygoteProcess, tmp_path: Path
) -> None:
    """At once, whatever the load is doing."""
    folder = write_native(tmp_path / "m", tokenizers=HANGS)
    template = TemplateEnd(zygote, folder, "transformers_handler")
    template.sock.close()
    assert next(zygote.messages) == Exited(1, template.pid, 0)
