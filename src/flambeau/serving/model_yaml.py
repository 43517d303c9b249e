"""The server's keys of an archive's `model-config.yaml` (contract.md section 4.1).

The worker reads the same file whole, for the handler, so keys that are not the server's are fine.
Precedence between this file and other sources is `flambeau.serving.options`.
"""

import difflib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, get_args

import msgspec

from flambeau.archive.yaml_config import read_yaml

logger = logging.getLogger(__name__)

Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]

_SIMILAR = 0.85
"""From this similarity on, an unknown key is taken for a misspelt one."""

_FOREIGN = frozenset(
    ["handler", "pt2", "pippy", "deepspeed", "dali", "micro_batching", "parallelism"]
)
"""Sections that handlers read (section 4.2); never taken for a misspelt key of the server's."""

_EXPECTED = {
    int: "a whole number",
    bool: "true or false",
    str: "text",
    list: "a list of whole numbers",
    dict: "a mapping",
}

_CHOICES = {
    "deviceType": ("", "cpu", "gpu"),
    "sandbox": ("none", "basic", "strict"),
    "parallelType": ("", "pp", "tp", "pptp", "custom"),
}

_LOWEST = {
    "maxWorkers": 0,
    "maxBatchDelay": 0,
    "responseTimeout": 1,
    "startupTimeout": 1,
    "parallelLevel": 0,
}
"""A number below is ignored with a warning, as in TorchServe."""

_RAISED_TO = {
    "minWorkers": 1,
    "batchSize": 1,
    "maxRetryTimeoutInSec": 0,
    "clientTimeoutInMills": 0,
    "jobQueueSize": 0,
    "sequenceMaxIdleMSec": 0,
    "sequenceTimeoutMSec": 0,
    "maxNumSequence": 1,
    "maxSequenceJobQueueSize": 1,
    "memoryLimit": 0,
}
"""A number below becomes this one, as in TorchServe."""


class ModelYaml(msgspec.Struct, frozen=True, rename="camel"):
    """The server's keys; None where the file is silent."""

    min_workers: Int32 | None = None
    max_workers: Int32 | None = None
    batch_size: Int32 | None = None
    max_batch_delay: Int32 | None = None
    response_timeout: Int32 | None = None
    startup_timeout: Int32 | None = None
    device_type: str | None = None
    device_ids: list[Int32] | None = None
    parallel_type: str | None = None
    parallel_level: Int32 | None = None
    torchrun: dict[str, object] | None = None
    max_retry_timeout_in_sec: Int32 | None = None
    client_timeout_in_mills: Int32 | None = None
    job_queue_size: Int32 | None = None
    use_job_ticket: bool | None = None
    continuous_batching: bool | None = None
    sequence_batching: bool | None = None
    sequence_max_idle_m_sec: Int32 | None = None
    sequence_timeout_m_sec: Int32 | None = None
    max_num_sequence: Int32 | None = None
    max_sequence_job_queue_size: Int32 | None = None
    async_communication: bool | None = None
    use_venv: bool | None = None
    memory_limit: Int64 | None = None
    sandbox: str | None = None

    def workers(self) -> tuple[int, int] | None:
        """Minimum and maximum, where they are a valid pair."""
        low, high = self.min_workers or 0, self.max_workers or 0
        return (low, high) if low > 0 and high >= low else None


_FIELDS = {field.encode_name: field.type for field in msgspec.structs.fields(ModelYaml)}


def read_model_yaml(model_dir: Path, config_file: str, model: str) -> ModelYaml:
    """Read the server's keys from the archive's yaml. A wrong value warns, naming the model, and is
    ignored.

    Raises `ArchiveError` for a file that is no mapping. Not for an event loop: it may take seconds.
    """
    if not config_file:
        return ModelYaml()
    return parse_model_yaml(read_yaml(model_dir / config_file), f"Model {model}, {config_file}")


def parse_model_yaml(document: Mapping[str, object], where: str) -> ModelYaml:
    """The server's keys of a document; what is wrong in it is logged as a warning each."""
    result, warnings = check_model_yaml(document)
    for text in warnings:
        logger.warning("%s: %s", where, text)
    return result


def check_model_yaml(document: Mapping[str, object]) -> tuple[ModelYaml, list[str]]:
    """The server's keys of a document, and one line for each thing that is wrong in it."""
    values: dict[str, object] = {}
    warnings: list[str] = []
    for key, value in document.items():
        if key not in _FIELDS:
            known = _misspelt(key)
            if known is not None and known not in document:
                warnings.append(f"{key} is not a key of the server; did you mean {known}?")
            continue
        complaint = _complaint(key, value)
        if complaint is not None:
            warnings.append(f"{key} is ignored: it is {value!r}, expected {complaint}")
            continue
        values[key] = _normal(key, value)
    result = msgspec.convert(values, ModelYaml)
    return result, [*warnings, *_contradictions(result)]


def _complaint(key: str, value: object) -> str | None:
    """What was expected in place of a wrong value; None for a good one."""
    try:
        msgspec.convert({key: value}, ModelYaml)
    except msgspec.ValidationError:
        return _expected(key)
    if value is None:
        return _expected(key)
    if key in _CHOICES and str(value).lower() not in _CHOICES[key]:
        return " or ".join(choice for choice in _CHOICES[key] if choice)
    if key in _LOWEST and isinstance(value, int) and value < _LOWEST[key]:
        return f"at least {_LOWEST[key]}"
    return None


def _expected(key: str) -> str:
    kind = get_args(_FIELDS[key])[0]  # the other one is None
    return _EXPECTED[getattr(kind, "__origin__", kind)]


def _normal(key: str, value: object) -> object:
    if key in _CHOICES:
        return str(value).lower()
    if key in _RAISED_TO and isinstance(value, int):
        return max(value, _RAISED_TO[key])
    return value


def _contradictions(values: ModelYaml) -> Iterator[str]:
    low, high = values.min_workers, values.max_workers
    if (low or high) and values.workers() is None:
        yield (
            f"minWorkers ({low}) and maxWorkers ({high}) are ignored: they count together, with"
            " 1 <= minWorkers <= maxWorkers"
        )
    if values.sequence_batching and not values.sequence_max_idle_m_sec:
        yield (
            "sequenceBatching needs sequenceMaxIdleMSec, the time after which an idle sequence is"
            " closed; 60000 is used"
        )
    if values.async_communication and values.continuous_batching:
        yield "continuousBatching is ignored: with asyncCommunication the handler batches itself"


def _misspelt(key: object) -> str | None:
    """The server's key that an unknown one was probably meant to be."""
    if not isinstance(key, str) or key in _FOREIGN:
        return None
    plain = {known.lower(): known for known in _FIELDS}
    bare = key.replace("_", "").replace("-", "").lower()
    close = difflib.get_close_matches(bare, plain, n=1, cutoff=_SIMILAR)
    return plain[close[0]] if close else None
