"""Every record that crosses a process boundary, one direction after the other.

server → zygote     Fork (with the worker's socket as a passed descriptor)
zygote → server     ZygoteReady, Forked, Exited
server → template   Load as below, then Fork as above
template → server   TemplateReady or LoadFailed; Log; Forked, Exited
server → worker     Load (with the lifeline as a passed descriptor), Run, Cancel, Ping, Stop
worker → server     Loaded, LoadFailed, Output, Failed, Done, Pong, Log, Measured

A worker answers `Load` with exactly one `Loaded` or `LoadFailed`. It answers `Run` with, for each
item, chunks (`Output`, the last one marked) or one `Failed`, in any order between items, and then
one `Done`, and `Ping` with one `Pong`. An asynchronous or native worker runs several batches at once; `Cancel` asks for one's
early `Done`.
`Log` and `Measured` come at any time; what was measured for an answer comes before it.
"""

import signal
import sys

import msgspec

from flambeau.errors import ErrorKind
from flambeau.types import (
    Chunk,
    InferenceRequest,
    MetricSample,
    MetricSpec,
    Phases,
    Precision,
    SandboxLevel,
)

DUMP_SIGNAL = signal.SIGRTMIN + 5 if sys.platform == "linux" else signal.SIGUSR2
"""Asks a worker or a template for the stacks of its threads, which it writes into its lifeline. A
real-time signal, since handlers may use the others."""

OUT_OF_MEMORY_EXIT = 72
"""The exit code of a worker that could not go on for want of memory."""

SEQUENCE_HEADERS = (
    "ts_request_sequence_id",
    "ts_request_sequence_start",
    "ts_request_sequence_end",
)
"""Headers of a sequence's id, start and end, unless the server's configuration names others."""


class Fork(msgspec.Struct, frozen=True, tag="fork", array_like=True):
    """Start a worker, or a model's template, on the descriptor that comes with this message."""

    worker: int
    template: bool = False


class ZygoteReady(msgspec.Struct, frozen=True, tag="zygote_ready", array_like=True):
    """The zygote has imported its frameworks and forks from now on."""

    pid: int
    gpus: int
    versions: dict[str, str]


class TemplateReady(msgspec.Struct, frozen=True, tag="template_ready", array_like=True):
    """The template has loaded its model and forks workers that have it from now on.

    Not `shared`: the model is not of a kind whose workers can be forked after the load; the
    template ends.
    """

    shared: bool


class Forked(msgspec.Struct, frozen=True, tag="forked", array_like=True):
    """The worker runs as `pid`."""

    worker: int
    pid: int


class Exited(msgspec.Struct, frozen=True, tag="exited", array_like=True):
    """The worker is gone. `status` is its exit code, or minus the signal that ended it.

    Comes without a `Forked` before it where the worker could not be forked; `pid` is -1 then.
    """

    worker: int
    pid: int
    status: int


class Load(msgspec.Struct, frozen=True, tag="load", array_like=True):
    """Load one model. The first message that a worker or a template gets.

    `handler` is the handler string that was given at registration or in the manifest, "" if there
    is none. `gpu` is a visible device's index or None for the CPU; `threads` is the number of
    compute threads this worker may use (0: the framework's own choice). `metrics` are the model
    metrics that metrics.yaml declares. `max_requests` is the batch size that somebody chose, else 0.
    `asynchronous` and `continuous` are the modes of contract.md sections 5.13 and 5.12. `measured`
    are the engine and the precision that `flambeau tune` found best for a model that leaves them
    open. `memory_limit` is the most memory that the process may have, in bytes; 0: no limit.
    `sandbox` is what the handler's process may do, `sandbox_net` whether `strict` leaves it IP.
    """

    name: str
    version: str
    model_dir: str
    handler: str
    batch_size: int
    gpu: int | None = None
    threads: int = 0
    decode_input: bool = True
    limit_max_image_pixels: bool = True
    service_envelope: str = ""
    metrics: tuple[MetricSpec, ...] = ()
    asynchronous: bool = False
    continuous: bool = False
    max_requests: int = 0
    sequence_headers: tuple[str, str, str] = SEQUENCE_HEADERS
    measured: tuple[str, Precision] | None = None
    memory_limit: int = 0
    sandbox: SandboxLevel = "none"
    sandbox_net: bool = False


class Run(msgspec.Struct, frozen=True, tag="run", array_like=True):
    """Answer one batch."""

    batch: int
    items: list[InferenceRequest]


class Cancel(msgspec.Struct, frozen=True, tag="cancel", array_like=True):
    """Nobody waits for this batch any more: stop it where that is possible. `Done` still follows.

    With `items`, which only native workers are sent, nobody waits for these of its items.
    """

    batch: int
    items: list[int] = []


class Ping(msgspec.Struct, frozen=True, tag="ping", array_like=True):
    """Show that you answer: run the task's example where the handler is ours."""


class Stop(msgspec.Struct, frozen=True, tag="stop", array_like=True):
    """Finish what is running, then exit with status 0."""


class Loaded(msgspec.Struct, frozen=True, tag="loaded", array_like=True):
    """The model answers from now on. `info` says how (handler mode, task, engine, output).

    `batch_size` is what the handler would like where nobody chose one, 0 if it does not mind.
    `pass_tokens` is how many tokens its forward passes have: it runs several batches at once, and
    may be sent so much ahead. 0: it runs one batch at a time.
    """

    seconds: float
    info: dict[str, str] = {}
    batch_size: int = 0
    pass_tokens: int = 0


class LoadFailed(msgspec.Struct, frozen=True, tag="load_failed", array_like=True):
    """The model cannot be loaded. The message is for people: one line, the real cause."""

    kind: ErrorKind
    message: str


class Output(msgspec.Struct, frozen=True, tag="output", array_like=True):
    """One chunk of the answer to item `index` of a batch."""

    batch: int
    index: int
    chunk: Chunk


class Failed(msgspec.Struct, frozen=True, tag="failed", array_like=True):
    """Item `index` has no answer. `status` is an HTTP status that the handler chose, or None."""

    batch: int
    index: int
    kind: ErrorKind
    message: str
    status: int | None = None


class Done(msgspec.Struct, frozen=True, tag="done", array_like=True):
    """The batch is finished and the worker is free. Times are in seconds.

    With `worker_ends` the worker has become unusable, and its process ends by itself. `tokens` were
    read and generated for it, 0 where nobody counts; `pass_tokens` as in `Loaded`, as of now.
    """

    batch: int
    handler_seconds: float
    worker_ends: bool = False
    tokens: int = 0
    pass_tokens: int = 0


class Pong(msgspec.Struct, frozen=True, tag="pong", array_like=True):
    """The answer to `Ping`; `trouble` is why the model does not run any more, else ""."""

    trouble: str = ""


class Log(msgspec.Struct, frozen=True, tag="log", array_like=True):
    """A log record of the handler or a line that it printed. `level` is `logging`'s number."""

    level: int
    logger: str
    message: str


class Measured(msgspec.Struct, frozen=True, tag="measured", array_like=True):
    """What was measured since the last message of this kind."""

    samples: list[MetricSample]
    phases: list[Phases] = []


FromZygote = ZygoteReady | Forked | Exited
FromTemplate = TemplateReady | LoadFailed | Log | Forked | Exited
ToWorker = Load | Run | Cancel | Ping | Stop
FromWorker = Loaded | LoadFailed | Output | Failed | Done | Pong | Log | Measured
