"""One model as a describe call shows it (contract.md section 6.3)."""

import asyncio
import datetime
import time
from collections.abc import Mapping

from flambeau.serving.served_model import ServedModel
from flambeau.supervisor.slot import Slot, SlotState
from flambeau.telemetry.gpu import NO_USAGE, GpuUsage, read_gpus
from flambeau.telemetry.masking import mask_addresses

_STATUS = {
    SlotState.IDLE: "READY",
    SlotState.BUSY: "READY",
    SlotState.LOADING: "LOADING",
    SlotState.WAITING: "UNLOADING",
    SlotState.STOPPING: "UNLOADING",
    SlotState.ENDED: "UNLOADING",
}


async def describe_model(model: ServedModel, *, at_startup: bool) -> dict[str, object]:
    """One element of a describe answer, fields in TorchServe's order.

    `at_startup` says whether a model of this name was loaded when the server started.
    """
    slots = model.pool.active()
    gpus = await asyncio.to_thread(read_gpus) if any(slot.gpus for slot in slots) else {}
    options, load, sequences = model.options, model.pool.options.load, model.options.sequences
    document: dict[str, object] = {
        "modelName": model.key.name,
        "modelVersion": model.key.version,
        "modelUrl": mask_addresses(model.registration.url),
        "runtime": model.archive.manifest.runtime,
        "minWorkers": model.minimum,
        "maxWorkers": model.maximum,
        "batchSize": model.batcher.batch_size,
        "maxBatchDelay": options.max_batch_delay,
        "responseTimeout": int(options.response_timeout),
        "startupTimeout": int(options.startup_timeout),
        "maxRetryTimeoutInSec": options.max_retry_timeout,
        "clientTimeoutInMills": int(options.client_timeout * 1000),
        "parallelType": options.placement.parallel_type,
        "parallelLevel": options.placement.parallel_level,
        "deviceType": "gpu" if options.placement.gpus else "cpu",
    }
    if options.placement.device_ids is not None:
        document["deviceIds"] = options.placement.device_ids
    document |= {
        "continuousBatching": options.continuous_batching,
        "useJobTicket": options.use_job_ticket,
        "useVenv": options.placement.use_venv,
        "stateful": sequences.on,
        "sequenceMaxIdleMSec": sequences.max_idle_ms,
        "sequenceTimeoutMSec": sequences.timeout_ms,
        "maxNumSequence": sequences.max_number,
        "maxSequenceJobQueueSize": sequences.queue_size,
        "loadedAtStartup": at_startup,
        "archive": _archive(model),
        "workers": [_worker(slot, gpus) for slot in slots],
        "jobQueueStatus": {
            "remainingCapacity": max(model.queue.capacity - len(model.queue), 0),
            "pendingRequests": len(model.queue),
        },
        "handler": {"name": load.handler} | model.info,
    }
    return document


def _archive(model: ServedModel) -> dict[str, str]:
    """Which bytes are served, and who answers for them. Ours; TorchServe's answer has no such field."""
    signature = model.archive.signature
    document = {"sha256": model.archive.digest, "signature": signature.status}
    told = {"signer": signature.signer, "reason": signature.reason}
    return document | {key: value for key, value in told.items() if value}


def _worker(slot: Slot, gpus: Mapping[int, GpuUsage]) -> dict[str, object]:
    age = time.monotonic() - slot.started_at
    started = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=age)
    document: dict[str, object] = {
        "id": str(slot.number),
        "startTime": started.strftime("%Y-%m-%dT%H:%M:%S.") + f"{started.microsecond // 1000:03d}Z",
        "status": _STATUS[slot.state],
        "memoryUsage": slot.memory_bytes(),
        "pid": slot.pid,
        "gpu": bool(slot.gpus),
        "gpuUsage": str(gpus.get(slot.gpus[0], NO_USAGE)) if slot.gpus else NO_USAGE,
    }
    if slot.trouble:
        document["error"] = slot.trouble
    return document
