"""Where a model's workers run: devices, ranks, interpreter (contract.md sections 4.4 to 4.6)."""

import logging
from collections.abc import Mapping

import msgspec

from flambeau.config import ServerConfig
from flambeau.errors import ArchiveError
from flambeau.serving.model_yaml import ModelYaml
from flambeau.supervisor.ranks import Ranks

logger = logging.getLogger(__name__)

_MOST_RANKS = 128
"""Processes of one worker: a typing error must not fill the machine."""

_TORCHRUN = ("nproc-per-node", "nnodes", "OMP_NUMBER_THREADS")
_NOT_NEEDED = (
    "rdzv-backend",
    "rdzv-endpoint",
    "rdzv-conf",
    "monitor-interval",
    "node-rank",
    "master-addr",
    "master-port",
)
"""Keys of `torchrun` for finding other machines; the ranks of one are started together."""


class Placement(msgspec.Struct, frozen=True):
    """Where one model's workers run.

    `gpus` are the devices that they share, empty for the CPU; `device_ids` those that the yaml
    chose. `parallel_level` is the number of GPUs, and but for `custom` of processes, of one worker;
    0 for a plain one. `threads` counts for ranks only. `python` is the interpreter of the model's
    own environment, "" where it has none. `light`: workers import no torch.
    """

    gpus: tuple[int, ...] = ()
    device_ids: list[int] | None = None
    parallel_type: str = ""
    parallel_level: int = 0
    threads: int = 1
    use_venv: bool = False
    python: str = ""
    light: bool = False

    @property
    def worker_limit(self) -> int:
        """How many workers have devices of their own, at least 1."""
        return max(len(self.gpus) // max(self.parallel_level, 1), 1)

    @property
    def ranks(self) -> Ranks | None:
        """The processes of one worker, where there are several."""
        if not self.parallel_level or self.parallel_type == "custom":
            return None
        return Ranks(self.parallel_level, self.parallel_type != "pp", self.threads)


class _Log:
    """Tells which model a line is about."""

    def __init__(self, model: str) -> None:
        self._model = model

    def info(self, text: str, *values: object) -> None:
        logger.info("Model %s: %s", self._model, text % values)

    def warning(self, text: str, *values: object) -> None:
        logger.warning("Model %s: %s", self._model, text % values)


def place(
    from_yaml: ModelYaml, config: ServerConfig, visible_gpus: int, model: str = ""
) -> Placement:
    """Settle a model's devices and ranks; `model` is what warnings call it.

    Raises `ArchiveError` for what one machine, or this one, cannot do.
    """
    log = _Log(model)
    gpus, device_ids = _gpus(from_yaml, config, visible_gpus, log)
    torchrun = from_yaml.torchrun or {}
    level = from_yaml.parallel_level or 0
    if torchrun:
        level = _number(torchrun, "nproc-per-node", log)
    kind = from_yaml.parallel_type or ""
    if kind and not level:
        log.warning("parallelType %s is ignored without parallelLevel or torchrun", kind)
    if not kind or not level:
        return Placement(gpus, device_ids, use_venv=bool(from_yaml.use_venv))
    _check(torchrun, level, gpus, log)
    return Placement(
        gpus,
        device_ids,
        kind,
        level,
        _number(torchrun, "OMP_NUMBER_THREADS", log),
        bool(from_yaml.use_venv),
    )


def _check(torchrun: Mapping[str, object], level: int, gpus: tuple[int, ...], log: _Log) -> None:
    nodes = _number(torchrun, "nnodes", log)
    if nodes > 1:
        raise ArchiveError(
            f"torchrun.nnodes is {nodes}: a worker on several machines is not supported;"
            " use one machine (nnodes: 1)"
        )
    if level > _MOST_RANKS:
        raise ArchiveError(f"parallelLevel is {level}: at most {_MOST_RANKS} are possible")
    if gpus and level > len(gpus):
        raise ArchiveError(
            f"parallelLevel is {level}, but the model may use only {len(gpus)} GPUs; lower it, or"
            " set deviceType: cpu"
        )
    for key in sorted(torchrun.keys() - {*_TORCHRUN}):
        if key in _NOT_NEEDED:
            log.info("torchrun.%s has no effect: all ranks run on this machine", key)
        else:
            log.warning("torchrun.%s is ignored: it is not a known key", key)


def _number(torchrun: Mapping[str, object], key: str, log: _Log) -> int:
    """A number of the section; 1 where it is not there, and with a warning where it is wrong."""
    value = torchrun.get(key, 1)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    log.warning("torchrun.%s is %r, expected a whole number from 1: 1 is used", key, value)
    return 1


def _gpus(
    from_yaml: ModelYaml, config: ServerConfig, visible: int, log: _Log
) -> tuple[tuple[int, ...], list[int] | None]:
    """The devices of a model, and the list that chose them."""
    count = visible if config.number_of_gpu < 0 else min(visible, config.number_of_gpu)
    chosen = from_yaml.device_ids or None
    if chosen and not all(0 <= device < count for device in chosen):
        log.warning("deviceIds %s are ignored: this machine has %d usable GPUs", chosen, count)
        chosen = None
    if from_yaml.device_type == "cpu":
        return (), chosen
    return tuple(chosen) if chosen else tuple(range(count)), chosen
