"""How one model is served: merged from registration, the archive's yaml and the server's settings.

Precedence is TorchServe's (contract.md section 4.3) with one mend: only what the yaml really says
counts. There, an archive with any yaml got time-outs of 120 s that beat every other setting.
"""

import logging
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from flambeau.config import ServerConfig
from flambeau.scheduling.deadlines import Patience
from flambeau.serving.model_yaml import ModelYaml
from flambeau.serving.placement import Placement, place
from flambeau.types import ModelKey

logger = logging.getLogger(__name__)

DEFAULT_DELAY_MS = 100
"""TorchServe's `maxBatchDelay` where nobody set one."""

QUEUE_SECONDS = 120
"""How long a request may wait for a worker where nobody said it; longer if the worker may be."""

DEFAULT_IDLE_MS = 60_000
"""When an idle sequence is closed, for a yaml that batches by sequence and does not say it."""


class Registration(msgspec.Struct, frozen=True):
    """What was asked for when a model was registered; None where nothing was said.

    Times are in seconds, `max_batch_delay` in milliseconds. `source` is the path where the archive
    was found; registering fills it in.
    """

    url: str
    model_name: str = ""
    handler: str = ""
    runtime: str = ""
    batch_size: int | None = None
    max_batch_delay: int | None = None
    initial_workers: int | None = None
    response_timeout: float | None = None
    startup_timeout: float | None = None
    s3_sse_kms: bool = False
    at_startup: bool = False
    source: str = ""


class SequenceOptions(msgspec.Struct, frozen=True):
    """Limits of a stateful model's sequences (section 5.11). Times in milliseconds.

    All numbers are 0 where the yaml has no `sequenceMaxIdleMSec` and does not batch by sequence.
    """

    on: bool = False
    max_idle_ms: int = 0
    timeout_ms: int = 0
    max_number: int = 0
    queue_size: int = 0


class ModelOptions(msgspec.Struct, frozen=True):
    """The settings in force for one model. Times in seconds, `max_batch_delay` in milliseconds.

    `batch_size` 0 means that nobody chose one: the handler's own default counts, else 1.
    """

    min_workers: int
    max_workers: int
    batch_size: int
    max_batch_delay: int
    response_timeout: float
    startup_timeout: float
    client_timeout: float
    queue_size: int
    max_retry_timeout: int
    placement: Placement
    use_job_ticket: bool = False
    continuous_batching: bool = False
    asynchronous: bool = False
    sequences: SequenceOptions = SequenceOptions()
    max_response_size: int = 0
    queue_bytes: int = 1024**3
    queue_timeout: float = 0
    memory_limit: int = 0

    @property
    def batch_wait(self) -> float:
        """Seconds for which a batch that is not full may be held back, at most (section 5.14).

        None by TorchServe's default, which says nothing of what the model's owner wants, and none
        where nobody chose a batch size.
        """
        asked = self.batch_size > 1 and self.max_batch_delay != DEFAULT_DELAY_MS
        return self.max_batch_delay / 1000 if asked else 0

    @property
    def patience(self) -> Patience:
        """For how long a request may wait for a worker."""
        if self.client_timeout:
            return Patience(self.client_timeout, self.client_timeout, 0, "clientTimeoutInMills")
        usual = self.queue_timeout or max(self.response_timeout, QUEUE_SECONDS)
        return Patience(usual, max(usual, self.startup_timeout), 2 * usual, "job_queue_timeout")

    @property
    def concurrency(self) -> int:
        """Requests that one worker runs at once. An asynchronous one: as many as may wait for it."""
        return max(self.queue_size, self.batch_size) if self.asynchronous else 1

    def batch_limit(self, batch_size: int) -> int:
        """Most requests in one batch (sections 5.12 and 5.13)."""
        if self.asynchronous:
            return 1
        return 2 * batch_size if self.continuous_batching and self.sequences.on else batch_size


def resolve_options(
    registration: Registration,
    from_yaml: ModelYaml,
    config: ServerConfig,
    key: ModelKey,
    visible_gpus: int,
) -> ModelOptions:
    """Merge all sources for one model. Raises `ArchiveError` for what this machine cannot do."""
    asynchronous = bool(from_yaml.async_communication)
    preset = config.models.get(key.name, {}).get(key.version, {})
    placement = place(from_yaml, config, visible_gpus, str(key))
    low, high = _workers(registration, from_yaml, preset, config, placement.worker_limit)
    return ModelOptions(
        min_workers=low,
        max_workers=high,
        batch_size=first_positive(
            registration.batch_size, from_yaml.batch_size, _preset(preset, "batchSize")
        ),
        max_batch_delay=first_positive(
            registration.max_batch_delay,
            from_yaml.max_batch_delay,
            _preset(preset, "maxBatchDelay"),
            DEFAULT_DELAY_MS,
        ),
        response_timeout=first_positive(
            from_yaml.response_timeout,
            _preset(preset, "responseTimeout"),
            registration.response_timeout,
            config.default_response_timeout,
        ),
        startup_timeout=first_positive(
            from_yaml.startup_timeout,
            _preset(preset, "startupTimeout"),
            registration.startup_timeout,
            config.default_startup_timeout,
        ),
        client_timeout=max(from_yaml.client_timeout_in_mills or 0, 0) / 1000,
        queue_size=first_positive(from_yaml.job_queue_size, config.job_queue_size, 100),
        max_retry_timeout=_first_set(from_yaml.max_retry_timeout_in_sec, 300),
        placement=placement,
        use_job_ticket=bool(from_yaml.use_job_ticket),
        continuous_batching=bool(from_yaml.continuous_batching) and not asynchronous,
        asynchronous=asynchronous,
        sequences=_sequences(from_yaml),
        max_response_size=config.max_response_size,
        queue_bytes=config.job_queue_bytes,
        queue_timeout=config.job_queue_timeout,
        memory_limit=_first_set(from_yaml.memory_limit, config.worker_memory_limit),
    )


def _sequences(from_yaml: ModelYaml) -> SequenceOptions:
    on = bool(from_yaml.sequence_batching)
    idle = from_yaml.sequence_max_idle_m_sec or (DEFAULT_IDLE_MS if on else 0)
    if not idle:
        return SequenceOptions()
    return SequenceOptions(
        on,
        idle,
        from_yaml.sequence_timeout_m_sec or 0,
        from_yaml.max_num_sequence or 1,
        from_yaml.max_sequence_job_queue_size or 1,
    )


def _workers(
    registration: Registration,
    from_yaml: ModelYaml,
    preset: Mapping[str, object],
    config: ServerConfig,
    default: int,
) -> tuple[int, int]:
    """Yaml, then presets, then what was asked for, then one worker per GPU, or one on the CPU."""
    pair = from_yaml.workers()
    if pair is None and registration.at_startup:
        low = first_positive(_preset(preset, "minWorkers"))
        high = first_positive(_preset(preset, "maxWorkers"), low)
        pair = (low, max(low, high)) if low else None
    if pair is not None:
        return pair
    if registration.initial_workers is not None:
        return (registration.initial_workers, registration.initial_workers)
    count = config.default_workers_per_model
    if registration.at_startup:
        count = count if count > 0 else default
    return (count, count)


def _preset(preset: Mapping[str, object], key: str) -> int | None:
    value = preset.get(key)
    return value if isinstance(value, int) else None


Number = TypeVar("Number", int, float)


def first_positive(*choices: Number | None) -> Number:
    """The first choice above zero, else zero."""
    for choice in choices:
        if choice is not None and choice > 0:
            return choice
    return 0


def _first_set(choice: int | None, default: int) -> int:
    return default if choice is None else max(choice, 0)
