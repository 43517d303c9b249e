"""A worker that is several processes: the ranks of one model on this machine (section 4.4).

TorchServe starts them through torchrun. Here each rank is a fresh process with the environment
that torchrun would give it, so that `torch.distributed.init_process_group` finds its peers. All
ranks load the model. A batch goes to rank 0, or to all of them where `predict_on_all`; what rank 0
answers is the answer. The end of one rank is the end of the worker.
"""

import asyncio
import socket
from collections.abc import Callable, Coroutine, Sequence

import msgspec

from flambeau.errors import FlambeauError, LoadError
from flambeau.ipc.messages import Done, Load, Loaded, Log, Measured
from flambeau.supervisor.interpreter import Interpreter
from flambeau.supervisor.process import WorkerProcess
from flambeau.supervisor.worker import Events
from flambeau.types import Chunk, InferenceRequest


class Ranks(msgspec.Struct, frozen=True):
    """How a model is spread over processes: `torchrun` on one machine."""

    count: int
    predict_on_all: bool
    threads: int = 1


class RankedWorker:
    """The server's handle of all ranks of one worker; it is used like a `WorkerProcess`."""

    def __init__(
        self, interpreter: Interpreter, ranks: Ranks, events: Events, run_id: str, gpus: bool
    ) -> None:
        self._events = events
        self._ranks = ranks
        self._gpus = gpus
        self._first_closed: int | None = None
        self._busy: dict[int, set[int]] = {}
        port = _free_port()
        self._processes = [
            WorkerProcess(
                interpreter.with_variables(_variables(rank, ranks, port, run_id)),
                _RankEvents(self, rank),
            )
            for rank in range(ranks.count)
        ]

    @property
    def pid(self) -> int:
        """The process id of rank 0."""
        return self._processes[0].pid

    @property
    def is_closed(self) -> bool:
        """Whether any rank takes no more batches."""
        return any(process.is_closed for process in self._processes)

    @property
    def timed_out(self) -> bool:
        """Whether any rank was silent for too long."""
        return any(process.timed_out for process in self._processes)

    @property
    def out_of_memory(self) -> bool:
        """Whether any rank ended for want of memory."""
        return any(process.out_of_memory for process in self._processes)

    async def start(self, load: Load, seconds: float) -> Loaded:
        """Start all ranks and load the model in each within `seconds`. Raises `LoadError`."""
        loads: list[Coroutine[None, None, Loaded]] = []
        for rank, process in enumerate(self._processes):
            own = msgspec.structs.replace(
                load, gpu=rank if self._gpus else None, threads=self._ranks.threads
            )
            loads.append(process.start(own, seconds))
        loading = [asyncio.ensure_future(each) for each in loads]
        try:
            await asyncio.wait(loading, return_when=asyncio.FIRST_EXCEPTION)
            failed = [rank for rank, each in enumerate(loading) if each.done() and each.exception()]
            if failed:  # the others wait for a peer that will never come
                self.kill()
                error = loading[failed[0]].exception()
                assert isinstance(error, LoadError)
                raise LoadError(f"rank {failed[0]}: {error.message}", error.kind)
        finally:
            await asyncio.gather(*loading, return_exceptions=True)
        return loading[0].result()

    @property
    def running(self) -> int:
        """How many batches no rank has finished, or not every rank."""
        return len(self._busy)

    def run(self, items: list[InferenceRequest], timeout: float) -> int:
        """Send one batch to every rank that predicts; returns its number, the same for all."""
        (number,) = {process.run(items, timeout) for process in self._predicting()}
        self._busy[number] = set(range(len(self._predicting())))
        return number

    def cancel(self, batch: int, items: Sequence[int] = ()) -> None:
        """Ask every rank that predicts to stop a batch, or these of its items."""
        for process in self._predicting():
            process.cancel(batch, items)

    def ping(self) -> None:
        """Ask rank 0 to show that it answers."""
        self._processes[0].ping()

    def _predicting(self) -> list[WorkerProcess]:
        return self._processes if self._ranks.predict_on_all else self._processes[:1]

    def stop(self) -> None:
        """Ask all ranks to end once they are free."""
        for process in self._processes:
            process.stop()

    def kill(self) -> None:
        """End all ranks now."""
        for process in self._processes:
            process.kill()

    async def wait(self) -> int | None:
        """Wait until all ranks are gone; returns the exit code of the one that went first."""
        codes = await asyncio.gather(*(process.wait() for process in self._processes))
        return codes[self._first_closed or 0]

    # what the ranks tell

    def on_done(self, rank: int, batch: int, tell: Callable[[Events], None]) -> None:
        """A batch is finished when every rank has finished it."""
        left = self._busy.get(batch, set())
        left.discard(rank)
        if not left:
            self._busy.pop(batch, None)
            tell(self._events)

    def on_closed(self, rank: int) -> None:
        """A rank is gone: no other can go on without it."""
        if self._first_closed is None:
            self._first_closed = rank
            self._events.closed()
            for process in self._processes:
                if process is not self._processes[rank]:
                    process.kill()

    def on_answer(self, rank: int, tell: Callable[[Events], None]) -> None:
        """Only rank 0's answers count."""
        if rank == 0:
            tell(self._events)

    def on_measured(self, record: Measured) -> None:
        """Each rank has metrics of its own."""
        self._events.measured(record)

    def on_log(self, rank: int, record: Log) -> None:
        """Say which rank logged."""
        self._events.log(msgspec.structs.replace(record, logger=f"rank {rank} {record.logger}"))


class _RankEvents:
    """What one rank tells."""

    def __init__(self, worker: RankedWorker, rank: int) -> None:
        self._worker = worker
        self._rank = rank

    def chunk(self, batch: int, index: int, chunk: Chunk) -> None:
        self._worker.on_answer(self._rank, lambda events: events.chunk(batch, index, chunk))

    def failed(self, batch: int, index: int, error: FlambeauError) -> None:
        self._worker.on_answer(self._rank, lambda events: events.failed(batch, index, error))

    def expired(self, batch: int) -> None:
        self._worker.on_answer(self._rank, lambda events: events.expired(batch))

    def done(self, record: Done) -> None:
        self._worker.on_done(self._rank, record.batch, lambda events: events.done(record))

    def pong(self, trouble: str) -> None:
        self._worker.on_answer(self._rank, lambda events: events.pong(trouble))

    def closed(self) -> None:
        self._worker.on_closed(self._rank)

    def log(self, record: Log) -> None:
        self._worker.on_log(self._rank, record)

    def measured(self, record: Measured) -> None:
        self._worker.on_measured(record)


def _variables(rank: int, ranks: Ranks, port: int, run_id: str) -> dict[str, str]:
    """What torchrun sets for a rank of a single node."""
    count = str(ranks.count)
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "ROLE_RANK": str(rank),
        "WORLD_SIZE": count,
        "LOCAL_WORLD_SIZE": count,
        "GROUP_WORLD_SIZE": "1",
        "ROLE_WORLD_SIZE": count,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": str(ranks.threads),
        "TORCHELASTIC_RUN_ID": run_id,
    }


def _free_port() -> int:
    """A port that nobody uses now; rank 0 listens on it a moment later."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
