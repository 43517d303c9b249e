"""What the server lends to each of its models, and how a model's pool of workers is made of it."""

import itertools
import sys

import msgspec

from flambeau.ipc.messages import Load
from flambeau.scheduling.held_bytes import HeldBytes
from flambeau.serving.options import ModelOptions
from flambeau.serving.placement import Placement
from flambeau.supervisor.environments import Environments
from flambeau.supervisor.interpreter import Interpreter
from flambeau.supervisor.pool import Pool, PoolOptions, WorkerNumbers
from flambeau.supervisor.zygote import Zygote
from flambeau.telemetry.metrics import Metrics


class Counters:
    """Numbers that all models share: of workers, and turns at the GPUs (section 4.5)."""

    def __init__(self, first_worker: int, first_distributed: int) -> None:
        self._workers = itertools.count(first_worker)
        self._distributed = first_distributed
        self._gpu_turns = itertools.count()

    def for_model(self, placement: Placement) -> WorkerNumbers:
        """The counters of one model: a choice of devices, or ranks, takes turns of its own."""
        level = placement.parallel_level
        alone = level or placement.device_ids
        turns = itertools.count() if alone else self._gpu_turns
        if not level:
            return WorkerNumbers(self._workers.__next__, turns)
        return WorkerNumbers(lambda: self._next_distributed(level), turns)

    def _next_distributed(self, level: int) -> int:
        number = self._distributed
        self._distributed += level
        return number


class Host(msgspec.Struct, frozen=True):
    """What the server lends to each of its models. `environment` is that of worker processes.

    `light` is the zygote for models whose workers import no torch: it is ready in the time of one
    `import numpy`, where `zygote` takes seconds. `pending` counts the bytes of all their requests.
    """

    zygote: Zygote
    light: Zygote
    metrics: Metrics
    cores: int
    counters: Counters
    environment: dict[str, str]
    environments: Environments
    pending: HeldBytes

    def zygote_for(self, placement: Placement) -> Zygote:
        """The zygote that a model's workers are forked from; `ensure` comes before the first."""
        return self.light if placement.light else self.zygote

    def new_pool(self, load: Load, options: ModelOptions) -> Pool:
        """The pool of a model: workers from the zygote, or fresh ones where it needs its own."""
        placement = options.placement
        alone = placement.python or placement.parallel_level
        python = placement.python or sys.executable
        pool_options = PoolOptions(
            msgspec.structs.replace(load, metrics=self.metrics.declared),
            options.response_timeout,
            options.startup_timeout,
            placement.gpus,
            options.concurrency,
            options.max_retry_timeout,
            Interpreter(python, self.environment) if alone else None,
            placement.parallel_level,
            placement.ranks,
        )
        numbers = self.counters.for_model(placement)
        return Pool(self.zygote_for(placement), pool_options, self.cores, numbers)
