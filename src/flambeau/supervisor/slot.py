"""One place for a worker: a coroutine that reads start → load → serve → wait for the end → again.

A slot keeps its number for life; its processes come and go. A slot that fails to load waits longer
each time (contract.md section 10.3), at most half a minute, and never gives up silently.
"""

import asyncio
import contextlib
import logging
import resource
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from flambeau.errors import WORKER_DIED, ErrorKind, FlambeauError, LoadError
from flambeau.ipc.messages import Done, Log, Measured
from flambeau.supervisor.canary import Canary
from flambeau.supervisor.job import Job
from flambeau.supervisor.model_log import write_model_log
from flambeau.supervisor.process import describe_exit
from flambeau.supervisor.worker import Worker
from flambeau.types import Chunk

if TYPE_CHECKING:
    from flambeau.supervisor.pool import Pool

logger = logging.getLogger(__name__)

BACKOFF_SECONDS = (0, 0.2, 0.5, 1, 2, 3, 5, 8, 13, 21, 30)
STOP_GRACE_SECONDS = 5.0
AHEAD = 2
"""Forward passes' tokens that a worker may have at once: one is computed, one is ahead of it."""
MOST_FAILURES = 5
"""Failures of one slot in a row after which the model's template is not trusted any more, and a
slot for which no process can be started says so."""


class SlotState(StrEnum):
    """What a slot does right now."""

    LOADING = "loading"
    IDLE = "idle"
    BUSY = "busy"
    WAITING = "waiting"
    STOPPING = "stopping"
    ENDED = "ended"


class Slot:
    """One place for a worker, its process replaced whenever it dies."""

    def __init__(self, number: int, gpus: tuple[int, ...], pool: "Pool") -> None:
        self.number = number
        self.gpus = gpus
        self.state = SlotState.LOADING
        self.failures = 0
        self.error: LoadError | None = None
        self.started_at = 0.0
        self.loaded_at: float | None = None
        self.info: dict[str, str] = {}
        self.wanted_batch_size = 0
        self.pass_tokens = 0
        self._pool = pool
        self._canary = Canary()
        self._jobs: dict[int, Job] = {}
        self._failing_since: float | None = None
        self._retry_at = 0.0
        self._process: Worker | None = None
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

    @property
    def working(self) -> bool:
        """Whether a worker is here, or is on its way for no longer than it may take (5.9, 10.3)."""
        if self.error is not None or not self._pool.breaker.closed:
            return False
        if self.state in (SlotState.IDLE, SlotState.BUSY) or self._failing_since is None:
            return True
        return time.monotonic() - self._failing_since <= self._pool.options.max_retry_timeout

    @property
    def trouble(self) -> str:
        """Why requests are not answered by this slot, for people; empty where nothing is wrong."""
        return self.error.message if self.error is not None else self._pool.breaker.reason

    @property
    def has_process(self) -> bool:
        """Whether a worker is here or on its way."""
        return self._process is not None

    def retry_seconds(self) -> float:
        """Seconds until the next try to load, 0 while there is one."""
        return max(self._retry_at - time.monotonic(), 0.0)

    @property
    def running(self) -> int:
        """How many jobs the worker has not finished."""
        return self._process.running if self._process else 0

    def room(self) -> int:
        """How many more jobs the worker can take now."""
        ready = self.state in (SlotState.IDLE, SlotState.BUSY) and not self.retired
        if not ready or self._process is None or self._process.is_closed:
            return 0
        if any(job.exclusive for job in self._jobs.values()):
            return 0
        if self.pass_tokens:
            return max(self.token_room(bulk=False), self.token_room(bulk=True))
        return self._pool.options.concurrency - self._process.running

    def token_room(self, *, bulk: bool) -> int:
        """Tokens that may be sent to a worker which runs several jobs at once.

        It gets one forward pass's more than it is about to compute, and no more: another worker may
        be free sooner, and what waits here can still be withdrawn. Each lane has room of its own,
        so that neither shuts the other out.
        """
        held = sum(job.tokens for job in self._jobs.values() if job.bulk == bulk)
        return max(AHEAD * self.pass_tokens - held, 0)

    async def run(self) -> None:
        """Keep a worker in this slot until it is retired."""
        while not self.retired:
            process = self._process = self._pool.new_worker(self)
            self._set(SlotState.LOADING)
            try:
                await self._live(process)
            except Exception:
                # A fault of ours in one worker must not end the others (promises.md R9).
                logger.exception("%s failed unexpectedly; its worker is replaced", self.name)
                self._count_failure()
                self.state = SlotState.WAITING
                process.kill()
                self._process = self.loaded_at = None
                jobs, self._jobs = list(self._jobs.values()), {}
                for job in jobs:
                    job.lost(_worker_died(), company=len(jobs) > 1)
            if not self.retired:
                await self._pause()
        self._pool.on_ended(self)
        self._set(SlotState.ENDED)

    def answers(self) -> bool:
        """Whether the worker is busy, or has shown lately that it answers; asks it if that is due."""
        if self.state is SlotState.IDLE and self._process is not None and self._canary.ask():
            self._process.ping()
        return self.state is SlotState.BUSY or self._canary.is_fresh

    def start(self, job: Job) -> None:
        """Give the worker a batch; it has room for one."""
        self.state = SlotState.BUSY
        self._send(job)

    def cancel(self, job: Job, items: Sequence[int] = ()) -> None:
        """Nobody waits for this job any more, or for these of its items: let the worker stop."""
        for number, running in self._jobs.items():
            if running is job and self._process is not None:
                self._process.cancel(number, items)

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

    def chunk(self, batch: int, index: int, chunk: Chunk) -> None:
        """Pass a part of an answer on."""
        if (job := self._jobs.get(batch)) is not None:
            job.chunk(index, chunk)

    def failed(self, batch: int, index: int, error: FlambeauError) -> None:
        """Pass an item's error on."""
        if (job := self._jobs.get(batch)) is not None:
            job.failed(index, error)

    def done(self, record: Done) -> None:
        """The batch is finished: run it again if it asks for that, else be free again, or end."""
        job = self._jobs.pop(record.batch, None)
        if self.pass_tokens and record.pass_tokens:
            self.pass_tokens = record.pass_tokens
        self._canary.sign()
        if not record.worker_ends:
            self.failures, self._failing_since = 0, None
            self._pool.answered()
        assert self._process is not None
        again = not record.worker_ends and not self._process.is_closed
        if job is not None and record.worker_ends:
            job.ended_worker(company=bool(self._jobs))
        if job is not None and job.done(record.handler_seconds, again=again, tokens=record.tokens):
            self._send(job)
        elif record.worker_ends:
            logger.warning("%s is replaced: an error has left it unusable", self.name)
            self._set(SlotState.WAITING)
        else:
            self._free()

    def expired(self, batch: int) -> None:
        """An asynchronous worker's batch took too long: it is answered now, and cancelled."""
        if (job := self._jobs.pop(batch, None)) is not None:
            job.lost(self._timed_out("it was cancelled"), company=False)

    def pong(self, trouble: str) -> None:
        """The worker has answered a ping; `trouble` is why it could not run its example."""
        if trouble:
            logger.error("%s cannot run its example any more: %s", self.name, trouble)
            self._canary.failed()
        else:
            self._canary.sign()
        self._pool.changed()

    def closed(self) -> None:
        """An idle worker is dying: give it nothing more."""
        if self.state is SlotState.IDLE:
            self._set(SlotState.WAITING)

    def log(self, record: Log) -> None:
        """Write what the handler logged, under the worker's name where TorchServe has a thread's."""
        write_model_log(self.name, record)

    def measured(self, record: Measured) -> None:
        """Pass the handler's metrics on."""
        self._pool.on_measured(record)

    # steps of `run`

    async def _live(self, process: Worker) -> None:
        """One process from its start to its end."""
        loaded = True
        try:
            await self._load(process)
        except LoadError as error:
            loaded = False
            self._load_failed(process, error)
        else:
            self.error = self._failing_since = None
            self.loaded_at = time.monotonic()
            self._canary = Canary()
            self._canary.sign()
            if not process.is_closed:
                self._free()
        status = await self._outlive(process)
        self._ended(process, status, died=loaded and not self.retired)

    def _gpu(self) -> int | None:
        """The device as the worker counts: where it is shown only its own, they begin at 0."""
        if not self.gpus:
            return None
        return 0 if self._pool.options.devices_per_worker else self.gpus[0]

    async def _load(self, process: Worker) -> None:
        options = self._pool.options
        load = msgspec.structs.replace(
            options.load, gpu=self._gpu(), threads=self._pool.threads_per_worker()
        )
        self.started_at = time.monotonic()
        loaded = await process.start(load, options.startup_timeout)
        self.info = loaded.info
        self.wanted_batch_size = loaded.batch_size
        self.pass_tokens = 0 if options.ranks else loaded.pass_tokens
        logger.info("Torch worker started. %s pid %d", self.name, process.pid)
        self._pool.on_loaded(self, time.monotonic() - self.started_at)

    def _load_failed(self, process: Worker, error: LoadError) -> None:
        process.kill()
        if self.retired:
            return  # told to end, not broken
        self._count_failure()
        if error.kind is not ErrorKind.WORKER_DIED or self.failures >= MOST_FAILURES:
            self.error = error
        self._pool.on_death()
        logger.warning("%s could not load its model: %s", self.name, error)

    async def _outlive(self, process: Worker) -> int | None:
        stopping = asyncio.ensure_future(self._kill_when_stuck(process))
        try:
            return await process.wait()
        finally:
            stopping.cancel()

    def _ended(self, process: Worker, status: int | None, *, died: bool) -> None:
        jobs, self._jobs = list(self._jobs.values()), {}
        if died:
            self._pool.on_death()
            logger.error("Backend worker process died: %s, %s", self.name, describe_exit(status))
        self._process = self.loaded_at = None
        if not self.retired:
            self._set(SlotState.WAITING)
        self._pool.on_gone(self)
        error = self._death(process)
        explained = [job.lost(error, company=len(jobs) > 1) for job in jobs]
        if died and not any(explained):  # two deaths under one input count once
            self._count_failure()
            self._pool.died(self, describe_exit(status))
        self._pool.changed()

    def _count_failure(self) -> None:
        self.failures += 1
        if self.failures >= MOST_FAILURES:
            self._pool.distrust_template()
        if self._failing_since is None:
            self._failing_since = time.monotonic()

    def _send(self, job: Job) -> None:
        assert self._process is not None
        timeout = self._pool.options.response_timeout
        self._jobs[self._process.run(job.items(), timeout)] = job

    async def _kill_when_stuck(self, process: Worker) -> None:
        """A retired worker that is not busy must end soon."""
        await self._retired.wait()
        while self.state is SlotState.BUSY:
            await self._pool.next_change()
        await asyncio.sleep(STOP_GRACE_SECONDS)
        process.kill()

    def _death(self, process: Worker) -> FlambeauError:
        if process.timed_out:
            return self._timed_out("its worker was replaced")
        if process.out_of_memory:
            limit = self._pool.options.load.memory_limit
            told = f" (worker_memory_limit, memoryLimit: {limit} bytes)" if limit else ""
            text = f"Out of resources: the worker that computed it had no memory left{told}."
            return FlambeauError(ErrorKind.OUT_OF_MEMORY, text)
        return _worker_died()

    def _timed_out(self, outcome: str) -> FlambeauError:
        options = self._pool.options
        text = (
            f"Model {options.load.name} gave no answer within {options.response_timeout:g} s"
            f" (responseTimeout); {outcome}"
        )
        return FlambeauError(ErrorKind.TIMEOUT, text, retry_after=1)

    async def _pause(self) -> None:
        """Wait before the next process: longer after each failure, and for the breaker's probe."""
        backoff = BACKOFF_SECONDS[min(max(self.failures - 1, 0), len(BACKOFF_SECONDS) - 1)]
        delay = max(backoff, self._pool.seconds_to_start(self))
        while delay and not self.retired:
            self._retry_at = time.monotonic() + delay
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._retired.wait(), delay)
            delay = self._pool.seconds_to_start(self)

    def _free(self) -> None:
        """A worker with nothing to do waits for a batch, or ends if its slot is retired."""
        assert self._process is not None
        if self._process.running:
            self._set(SlotState.BUSY)
        elif self.retired:
            self._process.stop()
            self._set(SlotState.STOPPING)
        else:
            self._set(SlotState.IDLE)

    def _set(self, state: SlotState) -> None:
        self.state = state
        self._pool.changed()


def _worker_died() -> FlambeauError:
    return FlambeauError(ErrorKind.WORKER_DIED, WORKER_DIED, retry_after=1)
