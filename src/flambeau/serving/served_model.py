"""One model version that is being served: its archive, queue, batcher and workers.

Life: built from an opened archive → `run` owns its workers → `scale` at will → `close` answers what
was accepted, then ends the workers. Only this object changes a model's state; requests just put
entries into its queue.
"""

import asyncio
import logging
import time
import uuid

from flambeau.archive.store import OpenedArchive
from flambeau.errors import ErrorKind, FlambeauError
from flambeau.ipc.messages import Load
from flambeau.scheduling.batch import Batch
from flambeau.scheduling.batcher import Batcher
from flambeau.scheduling.held_bytes import HeldBytes
from flambeau.scheduling.queue import Entry, RequestQueue, SequencePlace, Source
from flambeau.scheduling.sequences import SequenceQueue, SequenceRules
from flambeau.serving.host import Host
from flambeau.serving.options import ModelOptions, Registration
from flambeau.supervisor.pool import no_worker_error
from flambeau.supervisor.slot import Slot
from flambeau.types import LANE_HEADER, InferenceRequest, ModelKey

logger = logging.getLogger(__name__)


class ServedModel:
    """One model version in service."""

    def __init__(
        self,
        key: ModelKey,
        archive: OpenedArchive,
        registration: Registration,
        options: ModelOptions,
        load: Load,
        host: Host,
    ) -> None:
        self.key = key
        self.archive = archive
        self.registration = registration
        self.options = options
        self.info: dict[str, str] = {}
        self._metrics = host.metrics
        self._held = (HeldBytes(options.queue_bytes, "job_queue_bytes"), host.pending)
        self.minimum = 0
        self.maximum = 0
        self.pool = host.new_pool(load, options)
        self.queue = self._source()
        self.batcher = Batcher(
            key.name,
            self.queue,
            self.pool,
            max(options.batch_size, 1),
            limit_of=options.batch_limit,
            wait=options.batch_wait,
            patience=options.patience,
            continuous=options.continuous_batching,
            ticket=options.use_job_ticket,
        )
        self.batcher.on_batch = self._on_batch
        self.pool.on_loaded = self._on_loaded
        self.pool.on_ended = lambda slot: self._metrics.forget_worker(slot.name)
        self.pool.on_death = lambda: self._metrics.worker_died(key)
        self.pool.on_measured = lambda record: self._metrics.measured(
            key, record.samples, record.phases
        )

    async def run(self) -> None:
        """Own the model's workers until `close` or `kill`.

        Never raises an Exception: one model must not take the server down (promises.md R9).
        """
        self._metrics.begin(self.key)
        try:
            await self.pool.run()
        except Exception:
            logger.exception("%s failed unexpectedly; its workers end", self.key)
            self.pool.kill()
        finally:
            self._metrics.forget(self.key)

    def submit(self, request: InferenceRequest, asked_version: str) -> Entry:
        """Accept a request. Raises `FlambeauError` when there is no worker or no room."""
        entry = Entry(request, time.monotonic())
        entry.lane = _lane(request.headers)
        if self.options.sequences.on:
            entry.sequence = self._place(request.headers)
        entry.max_part_bytes = self.options.max_response_size
        entry.on_settled = lambda done, error: self._on_settled(done, error, asked_version)
        self._metrics.accepted(self.key, asked_version)  # refused or not, as in TorchServe
        try:
            self._accept(entry)
        except FlambeauError as error:
            self._metrics.failed(self.key, error.kind)
            raise
        return entry

    def check_room(self, asked_version: str) -> None:
        """Raise the error of a request that is refused whatever its body, and count it."""
        try:
            self.batcher.check()
        except FlambeauError as error:
            self._metrics.accepted(self.key, asked_version)
            self._metrics.failed(self.key, error.kind)
            raise

    def describe(self, request: InferenceRequest) -> Entry:
        """Accept a request that asks the handler about itself: alone, and in no metric."""
        now = time.monotonic()
        entry = Entry(request, now, now + self.options.response_timeout)
        entry.alone = True
        self.batcher.submit(entry)
        return entry

    def _accept(self, entry: Entry) -> None:
        """Queue an entry; its bytes are held until it is settled."""
        try:
            for held in self._held:
                held.check(entry.size)
        except FlambeauError as error:
            error.retry_after = self.batcher.retry_after()
            raise
        for held in self._held:
            held.add(entry.size)
        try:
            self.batcher.submit(entry)
        except FlambeauError:
            self._give_back(entry)
            raise

    def _give_back(self, entry: Entry) -> None:
        for held in self._held:
            held.give_back(entry.size)

    def scale(self, minimum: int, maximum: int) -> None:
        """Ask for at least `minimum` and at most `maximum` workers."""
        self.minimum, self.maximum = minimum, maximum
        self.pool.scale(minimum, maximum)

    async def close(self, seconds: float) -> bool:
        """Answer what was accepted, within `seconds`, then end the workers; False: not in time."""
        in_time = True
        try:
            if self.pool.active():
                await asyncio.wait_for(self.batcher.drained(), seconds)
        except TimeoutError:
            logger.warning("%s: requests were still running after %g s", self.key, seconds)
            self.pool.kill()
            in_time = False
        self.batcher.close()
        self.pool.close()
        return in_time

    def publish_state(self) -> None:
        """Refresh the model's gauges."""
        self._metrics.model_state(self.key, len(self.queue), self.pool.ready_count())

    def _source(self) -> Source:
        """Where the batcher gets its entries from: one queue, or one a sequence."""
        limits = self.options.sequences
        if not limits.on:
            return RequestQueue(self.options.queue_size)
        rules = SequenceRules(
            limits.max_number,
            limits.queue_size,
            limits.max_idle_ms / 1000,
            limits.timeout_ms / 1000,
            self.pool.options.load.sequence_headers[2],
        )
        return SequenceQueue(
            self.options.queue_size,
            rules,
            workers=lambda: len(self.pool.active()),
            refuse=lambda: no_worker_error(self.key.name),
        )

    def _place(self, headers: dict[str, str]) -> SequencePlace:
        """The request's place in a sequence. One that names none opens its own (section 5.11)."""
        key, start, end = self.pool.options.load.sequence_headers
        found = {name.lower(): value for name, value in headers.items()}
        name = found.get(key.lower(), "")
        if not name:
            name = headers[key] = f"ts-seq-{uuid.uuid4()}"
            headers[start] = found[start.lower()] = "true"
        opens, closes = (_is_set(found.get(each.lower(), "")) for each in (start, end))
        return SequencePlace(name, opens, closes)

    def _on_loaded(self, slot: Slot, seconds: float) -> None:
        self.info = slot.info
        if not self.options.batch_size and slot.wanted_batch_size:
            self.batcher.batch_size = slot.wanted_batch_size
        self._metrics.worker_loaded(slot.name, seconds)
        logger.info("Model %s loaded. %s", self.key.name, slot.info)

    def _on_batch(self, batch: Batch, handler_seconds: float) -> None:
        if not batch.joined:
            return  # a further run of requests that were counted
        queued = [entry.dispatched - entry.arrived for entry in batch.joined]
        worker = time.monotonic() - batch.joined[0].dispatched
        self._metrics.batch(self.key, queued, worker, handler_seconds)

    def _on_settled(self, entry: Entry, error: FlambeauError | None, asked_version: str) -> None:
        self._give_back(entry)
        if error is not None:
            self._metrics.failed(self.key, error.kind)
            if error.kind is ErrorKind.CANCELLED:
                self.batcher.withdrawn(entry)
            return
        total = time.monotonic() - entry.arrived
        queued = entry.dispatched - entry.arrived
        self._metrics.answered(self.key, asked_version, total, queued)


def _is_set(value: str) -> bool:
    """Whether a header that marks a sequence's start or end does so."""
    return value.strip().lower() not in ("", "false", "0")


def _lane(headers: dict[str, str]) -> str | None:
    """The lane that a client asks for, None for none. What is no lane is the handler's to refuse."""
    for name, value in headers.items():
        if name.lower() == LANE_HEADER:
            return value.strip().lower() or None
    return None
