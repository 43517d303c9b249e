"""One place for a worker: a coroutine that reads start → load → serve → wait for the end → again.

A slot keeps its number for life; its processes come and go. A slot that fails to load waits longer
each time (contract.md section 10.3), at most half a minute, and never gives up silently.
"""

import asyncio
import logging
import resource
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from flambeau.errors import ErrorKind, FlambeauError, LoadError
from flambeau.ipc.messages import Log, Measured
from flambeau.supervisor.process import WorkerProcess, describe_exit
from flambeau.types import Chunk, InferenceRequest

if TYPE_CHECKING:
    from flambeau.supervisor.pool import Pool

logger = logging.getLogger(__name__)
model_log = logging.getLogger("MODEL_LOG")

BACKOFF_SECONDS = (0, 1, 1, 2, 3, 5, 8, 13, 21, 30)
STOP_GRACE_SECONDS = 5.0
CRASH_LOOP_DEATHS = 5
"""Deaths without an answer in between after which requests are refused until a worker is back."""


class SlotState(StrEnum):
    """What a slot does right now."""

    LOADING = "loading"
    IDLE = "idle"
    BUSY = "busy"
    WAITING = "waiting"
    STOPPING = "stopping"
    ENDED = "ended"


class Job(Protocol):
    """A batch as a worker slot sees it; it hears of the outcome exactly once."""

    def items(self) -> list[InferenceRequest]:
        """What to predict."""

    def chunk(self, index: int, chunk: Chunk) -> None:
        """A part of item `index`'s answer."""

    def failed(self, index: int, error: FlambeauError) -> None:
        """Item `index` has no answer."""

    def done(self, handler_seconds: float) -> None:
        """The batch is finished."""

    def lost(self, error: FlambeauError) -> None:
        """The worker died under the batch."""


class Slot:
    """One place for a worker, its process replaced whenever it dies."""

    def __init__(self, number: int, gpu: int | None, pool: "Pool") -> None:
        self.number = number
        self.gpu = gpu
        self.state = SlotState.LOADING
        self.failures = 0
        self.error: LoadError | None = None
        self.started_at = 0.0
        self.info: dict[str, str] = {}
        self.wanted_batch_size = 0
        self._pool = pool
        self._job: Job | None = None
        self._process: WorkerProcess | None = None
        self._retired = asyncio.Event()

    @property
    def name(self) -> str:
        """The worker's name in logs and metrics, as TorchServe writes it."""
        load = self._pool.options.load
        return f"W-{self.number}-{load.name}_{load.version}"

    @property
    def pid(self) -> int:
        """The process id, -1 while there is none."""
        return self._process.pid if self._process else -1

    def memory_bytes(self) -> int:
        """Resident memory of the process, 0 where it cannot be told."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (OSError, ValueError, IndexError):
            return 0
        return pages * resource.getpagesize()

    @property
    def retired(self) -> bool:
        """Whether this slot was told to end."""
        return self._retired.is_set()

    async def run(self) -> None:
        """Keep a worker in this slot until it is retired."""
        while not self.retired:
            process = self._process = WorkerProcess(self._pool.zygote, self)
            self._set(SlotState.LOADING)
            try:
                await self._live(process)
            except Exception:
                # A fault of ours in one worker must not end the others (promises.md R9).
                logger.exception("%s failed unexpectedly; its worker is replaced", self.name)
                self.failures += 1
                self.state = SlotState.WAITING
                process.kill()
                self._process = None
            if not self.retired:
                await self._pause()
        self._pool.on_ended(self)
        self._set(SlotState.ENDED)

    def start(self, job: Job) -> None:
        """Give the idle worker a batch."""
        assert self.state is SlotState.IDLE
        assert self._process is not None
        self._job = job
        self.state = SlotState.BUSY
        self._process.run(job.items(), self._pool.options.response_timeout)

    def retire(self) -> None:
        """End the worker: at once when idle or loading, after its batch when busy."""
        self._retired.set()
        if self._process is None:
            return
        if self.state is SlotState.IDLE:
            self._free()
        elif self.state is SlotState.LOADING:
            self._process.kill()

    def kill(self) -> None:
        """End the worker now, whatever it does."""
        self._retired.set()
        if self._process is not None:
            self._process.kill()

    # what the process tells

    def chunk(self, index: int, chunk: Chunk) -> None:
        """Pass a part of an answer on."""
        if self._job is not None:
            self._job.chunk(index, chunk)

    def failed(self, index: int, error: FlambeauError) -> None:
        """Pass an item's error on."""
        if self._job is not None:
            self._job.failed(index, error)

    def done(self, handler_seconds: float) -> None:
        """The batch is finished: be free again, or end."""
        job, self._job = self._job, None
        self.failures = 0
        if job is not None:
            job.done(handler_seconds)
        self._free()

    def closed(self) -> None:
        """An idle worker is dying: give it nothing more."""
        if self.state is SlotState.IDLE:
            self._set(SlotState.WAITING)

    def log(self, record: Log) -> None:
        """Write what the handler logged, under the worker's name where TorchServe has a thread's."""
        stream = "stderr" if record.logger == "stderr" else "stdout"
        extra = {"worker": f"{self.name}-{stream}"}
        model_log.log(record.level, "%s", record.message, extra=extra)

    def measured(self, record: Measured) -> None:
        """Pass the handler's metrics on."""
        self._pool.on_measured(record)

    # steps of `run`

    async def _live(self, process: WorkerProcess) -> None:
        """One process from its start to its end."""
        loaded = True
        try:
            await self._load(process)
        except LoadError as error:
            loaded = False
            self._load_failed(process, error)
        else:
            self.error = None
            if not process.is_closed:
                self._free()
        status = await self._outlive(process)
        self._ended(process, status, died=loaded and not self.retired)

    async def _load(self, process: WorkerProcess) -> None:
        options = self._pool.options
        load = msgspec.structs.replace(
            options.load, gpu=self.gpu, threads=self._pool.threads_per_worker()
        )
        self.started_at = time.monotonic()
        loaded = await process.start(load, options.startup_timeout)
        self.info = loaded.info
        self.wanted_batch_size = loaded.batch_size
        logger.info("Torch worker started. %s pid %d", self.name, process.pid)
        self._pool.on_loaded(self, time.monotonic() - self.started_at)

    def _load_failed(self, process: WorkerProcess, error: LoadError) -> None:
        process.kill()
        if self.retired:
            return  # told to end, not broken
        self.failures += 1
        if error.kind is not ErrorKind.WORKER_DIED or self.failures >= CRASH_LOOP_DEATHS:
            self.error = error
        self._pool.on_death()
        logger.warning("%s could not load its model: %s", self.name, error)

    async def _outlive(self, process: WorkerProcess) -> int | None:
        stopping = asyncio.ensure_future(self._kill_when_stuck(process))
        try:
            return await process.wait()
        finally:
            stopping.cancel()

    def _ended(self, process: WorkerProcess, status: int | None, *, died: bool) -> None:
        job, self._job = self._job, None
        if died:
            self.failures += 1
            self._pool.on_death()
            logger.error("Backend worker process died: %s, %s", self.name, describe_exit(status))
            if self.failures >= CRASH_LOOP_DEATHS:
                text = f"it died {self.failures} times in a row, last by {describe_exit(status)}"
                self.error = LoadError(text, ErrorKind.WORKER_DIED)
        self._process = None
        if not self.retired:
            self._set(SlotState.WAITING)
        if job is not None:
            job.lost(self._death(timed_out=process.timed_out))
        self._pool.changed()

    async def _kill_when_stuck(self, process: WorkerProcess) -> None:
        """A retired worker that is not busy must end soon."""
        await self._retired.wait()
        while self.state is SlotState.BUSY:
            await self._pool.next_change()
        await asyncio.sleep(STOP_GRACE_SECONDS)
        process.kill()

    def _death(self, *, timed_out: bool) -> FlambeauError:
        load = self._pool.options.load
        kind = ErrorKind.TIMEOUT if timed_out else ErrorKind.WORKER_DIED
        if timed_out:
            text = (
                f"Model {load.name} gave no answer within {self._pool.options.response_timeout:g} s"
                " (responseTimeout); its worker was replaced"
            )
        else:
            text = "Worker died."  # TorchServe's words; the log has the rest
        return FlambeauError(kind, text, retry_after=1)

    async def _pause(self) -> None:
        delay = BACKOFF_SECONDS[min(max(self.failures - 1, 0), len(BACKOFF_SECONDS) - 1)]
        if delay:
            try:
                await asyncio.wait_for(self._retired.wait(), delay)
            except TimeoutError:
                return

    def _free(self) -> None:
        """The worker has nothing to do: it waits for a batch, or ends if its slot is retired."""
        if self.retired:
            assert self._process is not None
            self._process.stop()
            self._set(SlotState.STOPPING)
        else:
            self._set(SlotState.IDLE)

    def _set(self, state: SlotState) -> None:
        self.state = state
        self._pool.changed()
