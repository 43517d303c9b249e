"""TorchServe's management API: register, describe, list, scale, unregister (contract.md section 6)."""

import datetime
import json
import time
from collections.abc import Awaitable, Callable
from functools import partial
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

from flambeau.errors import ErrorKind, FlambeauError
from flambeau.protocols.http import Endpoint, header, method_not_allowed, read_body, respond_json
from flambeau.serving.management import Management
from flambeau.serving.options import Registration
from flambeau.serving.served_model import ServedModel
from flambeau.supervisor.slot import Slot, SlotState

MAX_BODY = 64 * 1024
PAGE = 100
Answer = tuple[int, object]
Parameters = dict[str, str]
Action = Callable[[Parameters], Awaitable[Answer]]

_DISABLED = (
    "Registering and unregistering models is disabled. Start the server with --enable-model-api,"
    " or set enable_model_api=true in config.properties."
)


class ManagementApi:
    """The management API over HTTP."""

    def __init__(self, management: Management) -> None:
        self._management = management

    def endpoint(self, method: str, segments: list[str]) -> Endpoint | None:
        """The endpoint of a management call."""
        action = self._action(method, segments)
        if action is None:
            return None

        async def run(scope: Scope, receive: Receive, send: Send) -> None:
            status, document = await action(await _parameters(scope, receive))
            await respond_json(send, document, status)

        return run

    def _action(self, method: str, segments: list[str]) -> Action | None:
        action: Action | None = None
        match method, segments:
            case "GET", ["models"]:
                action = self._list
            case "POST", ["models"]:
                action = self._guarded(self._register)
            case "GET", ["models", name, *rest] if len(rest) <= 1 or rest[1:] == ["set-default"]:
                action = partial(self._describe, name, "".join(rest[:1]))
            case "PUT", ["models", name, version, "set-default"]:
                action = partial(self._set_default, name, version)
            case "PUT", ["models", name, *rest] if len(rest) <= 1:
                action = partial(self._scale, name, "".join(rest))
            case "DELETE", ["models", name, *rest] if len(rest) <= 1:
                action = self._guarded(partial(self._unregister, name, "".join(rest)))
            case (_, ["models", *_]) | (_, []):
                raise method_not_allowed()
            case _:
                pass
        return action

    def _guarded(self, action: Action) -> Action:
        if not self._management.api_enabled:
            raise method_not_allowed(_DISABLED)
        return action

    async def _list(self, parameters: Parameters) -> Answer:
        limit = _integer(parameters, "limit", PAGE)
        limit = limit if 0 <= limit <= PAGE else PAGE
        start = max(_integer(parameters, "next_page_token", 0), 0)
        names = self._management.registry.names()
        document: dict[str, object] = {}
        if start + limit < len(names):
            document["nextPageToken"] = str(start + limit)
        registry = self._management.registry
        document["models"] = [
            {"modelName": name, "modelUrl": registry.get(name).registration.url}
            for name in names[start : start + limit]
        ]
        return 200, document

    async def _describe(self, name: str, version: str, _parameters: Parameters) -> Answer:
        registry = self._management.registry
        if version == "all":
            return 200, [_describe(model) for model in registry.all_versions(name)]
        return 200, [_describe(registry.get(name, version))]

    async def _register(self, parameters: Parameters) -> Answer:
        if "url" not in parameters:
            raise FlambeauError(ErrorKind.INVALID_INPUT, "Parameter url is required.")
        registration = Registration(
            parameters["url"],
            model_name=parameters.get("model_name", ""),
            handler=parameters.get("handler", ""),
            batch_size=_optional(parameters, "batch_size"),
            max_batch_delay=_optional(parameters, "max_batch_delay"),
            initial_workers=_optional(parameters, "initial_workers"),
            response_timeout=_optional(parameters, "response_timeout"),
            startup_timeout=_optional(parameters, "startup_timeout"),
        )
        synchronous = _switch(parameters, "synchronous", default=True)
        model = await self._management.register(registration, wait=synchronous)
        key, workers = model.key, model.options.min_workers
        if workers and not synchronous:
            return 202, {"status": "Processing worker updates..."}
        text = (
            f'Model "{key.name}" Version: {key.version} registered with {workers} initial workers'
        )
        if not workers:
            text += ". Use scale workers API to add workers for the model."
        return 200, {"status": text}

    async def _scale(self, name: str, version: str, parameters: Parameters) -> Answer:
        version = version or parameters.get("model_version", "")
        minimum = max(_integer(parameters, "min_worker", 1), 0)
        maximum = _integer(parameters, "max_worker", minimum)
        synchronous = _switch(parameters, "synchronous", default=False)
        model = await self._management.scale(name, version, minimum, maximum, wait=synchronous)
        if not synchronous:
            return 202, {"status": "Processing worker updates..."}
        count = len(model.pool.active())
        text = f"Workers scaled to {count} for model: {name}"
        return 200, {"status": text + (f", version: {version}" if version else "")}

    async def _set_default(self, name: str, version: str, _parameters: Parameters) -> Answer:
        self._management.set_default(name, version)
        text = f'Default version successfully updated for model "{name}" to "{version}"'
        return 200, {"status": text}

    async def _unregister(self, name: str, version: str, _parameters: Parameters) -> Answer:
        await self._management.unregister(name, version)
        return 200, {"status": f'Model "{name}" unregistered'}


def _describe(model: ServedModel) -> dict[str, object]:
    """One element of a describe answer (section 6.3), fields in TorchServe's order."""
    options, load = model.options, model.pool.options.load
    document: dict[str, object] = {
        "modelName": model.key.name,
        "modelVersion": model.key.version,
        "modelUrl": model.registration.url,
        "runtime": model.archive.manifest.runtime,
        "minWorkers": model.minimum,
        "maxWorkers": model.maximum,
        "batchSize": model.batcher.batch_size,
        "maxBatchDelay": options.max_batch_delay,
        "responseTimeout": int(options.response_timeout),
        "startupTimeout": int(options.startup_timeout),
        "maxRetryTimeoutInSec": options.max_retry_timeout,
        "clientTimeoutInMills": int(options.client_timeout * 1000),
        "parallelType": options.parallel_type,
        "parallelLevel": options.parallel_level,
        "deviceType": "gpu" if options.gpus else "cpu",
    }
    if options.device_ids is not None:
        document["deviceIds"] = options.device_ids
    document |= {
        "continuousBatching": options.continuous_batching,
        "useJobTicket": options.use_job_ticket,
        "useVenv": options.use_venv,
        "stateful": options.sequences.on,
        "sequenceMaxIdleMSec": options.sequences.max_idle_ms,
        "sequenceTimeoutMSec": options.sequences.timeout_ms,
        "maxNumSequence": options.sequences.max_number,
        "maxSequenceJobQueueSize": options.sequences.queue_size,
    }
    document["loadedAtStartup"] = model.registration.at_startup
    document["workers"] = [_worker(slot) for slot in model.pool.active()]
    document["jobQueueStatus"] = {
        "remainingCapacity": max(model.queue.capacity - len(model.queue), 0),
        "pendingRequests": len(model.queue),
    }
    document["handler"] = {"name": load.handler} | model.info
    return document


def _worker(slot: Slot) -> dict[str, object]:
    ready = slot.state in (SlotState.IDLE, SlotState.BUSY)
    age = time.monotonic() - slot.started_at
    started = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=age)
    document: dict[str, object] = {
        "id": str(slot.number),
        "startTime": started.strftime("%Y-%m-%dT%H:%M:%S.") + f"{started.microsecond // 1000:03d}Z",
        "status": "READY" if ready else "UNLOADING",
        "memoryUsage": slot.memory_bytes(),
        "pid": slot.pid,
        "gpu": slot.gpu is not None,
        "gpuUsage": "N/A",
    }
    if slot.error is not None:
        document["error"] = slot.error.message
    return document


async def _parameters(scope: Scope, receive: Receive) -> Parameters:
    """Parameters of the query, or of a JSON body instead of them (section 6.4)."""
    if header(scope, b"content-type").partition(";")[0].strip().lower() == "application/json":
        body = await read_body(scope, receive, MAX_BODY)
        if body:
            return _json_parameters(body)
    return dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))


def _json_parameters(body: bytes) -> Parameters:
    try:
        document: object = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise FlambeauError(
            ErrorKind.INVALID_INPUT, 'The body is not a JSON object such as {"url": "model.mar"}.'
        )
    texts = {True: "true", False: "false"}
    return {
        str(key): texts[value] if isinstance(value, bool) else str(value)
        for key, value in document.items()
        if value is not None
    }


def _integer(parameters: Parameters, key: str, default: int) -> int:
    """A number of 32 bits; what is none silently becomes the default (section 6.6)."""
    try:
        number = int(parameters[key])
    except (KeyError, ValueError):
        return default
    return number if -(2**31) <= number < 2**31 else default


def _optional(parameters: Parameters, key: str) -> int | None:
    value = _integer(parameters, key, -1)
    return value if value >= 0 else None


def _switch(parameters: Parameters, key: str, *, default: bool) -> bool:
    return parameters[key].lower() == "true" if key in parameters else default
