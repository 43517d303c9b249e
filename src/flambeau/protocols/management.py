"""TorchServe's management API: register, describe, list, scale, unregister (contract.md section 6)."""

from collections.abc import Awaitable, Callable
from functools import partial

from starlette.types import Receive, Scope, Send

from flambeau.errors import ErrorKind, FlambeauError
from flambeau.protocols.describe import describe_model
from flambeau.protocols.http import Endpoint, ModelEndpoint, method_not_allowed, respond_json
from flambeau.protocols.operations import MANAGEMENT, Operation, management_document
from flambeau.protocols.parameters import (
    Parameters,
    integer,
    natural,
    query_parameters,
    register_parameters,
    switch,
)
from flambeau.serving.inference import Inference
from flambeau.serving.management import Management
from flambeau.serving.options import Registration
from flambeau.telemetry.masking import mask_addresses

PAGE = 100
Answer = tuple[int, object]
Action = Callable[[Parameters], Awaitable[Answer]]

_DISABLED = (
    "Registering and unregistering models is disabled. Start the server with --enable-model-api,"
    " or set enable_model_api=true in config.properties."
)


class ManagementApi:
    """The management API over HTTP."""

    operations: tuple[Operation, ...] = MANAGEMENT

    def __init__(self, management: Management, inference: Inference) -> None:
        self._management = management
        self._inference = inference

    def endpoint(self, method: str, segments: list[str]) -> Endpoint | None:
        """The endpoint of a management call."""
        action = self._action(method, segments)
        if action is None:
            return None
        read = register_parameters if method == "POST" else query_parameters

        async def run(scope: Scope, receive: Receive, send: Send) -> None:
            status, document = await action(await read(scope, receive))
            await respond_json(send, document, status)

        return ModelEndpoint(segments[1], run) if len(segments) > 1 else run

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
            case "OPTIONS", ["models", name, *rest] if len(rest) <= 1:
                action = partial(self._document, name, "".join(rest))
            case _, ["models", *rest] if len(rest) <= 2 or rest[2:] == ["set-default"]:
                raise method_not_allowed()
            case _:
                pass
        return action

    def _guarded(self, action: Action) -> Action:
        if not self._management.api_enabled:
            raise method_not_allowed(_DISABLED)
        return action

    async def _list(self, parameters: Parameters) -> Answer:
        limit = integer(parameters, "limit", PAGE)
        limit = limit if 0 <= limit <= PAGE else PAGE
        start = max(integer(parameters, "next_page_token", 0), 0)
        names = self._management.registry.names()
        document: dict[str, object] = {}
        if start + limit < len(names):
            document["nextPageToken"] = str(start + limit)
        registry = self._management.registry
        document["models"] = [
            {"modelName": name, "modelUrl": mask_addresses(registry.get(name).registration.url)}
            for name in names[start : start + limit]
        ]
        return 200, document

    async def _describe(self, name: str, version: str, parameters: Parameters) -> Answer:
        registry = self._management.registry
        at_startup = name in await self._inference.startup_names()
        if version == "all":
            models = registry.all_versions(name)
            return 200, [await describe_model(model, at_startup=at_startup) for model in models]
        document = await describe_model(registry.get(name, version), at_startup=at_startup)
        if switch(parameters, "customized", default=False):
            handler = document.pop("handler")
            document["customizedMetadata"] = await self._inference.describe(name, version)
            document["handler"] = handler
        return 200, [document]

    async def _document(self, name: str, version: str, _parameters: Parameters) -> Answer:
        return 200, management_document(self._management.registry.get(name, version).key.name)

    async def _register(self, parameters: Parameters) -> Answer:
        if "url" not in parameters:
            raise FlambeauError(ErrorKind.INVALID_INPUT, "Parameter url is required.")
        registration = Registration(
            parameters["url"],
            model_name=parameters.get("model_name", ""),
            handler=parameters.get("handler", ""),
            runtime=parameters.get("runtime", ""),
            batch_size=natural(parameters, "batch_size"),
            max_batch_delay=natural(parameters, "max_batch_delay"),
            initial_workers=natural(parameters, "initial_workers"),
            response_timeout=natural(parameters, "response_timeout"),
            startup_timeout=natural(parameters, "startup_timeout"),
            s3_sse_kms=switch(parameters, "s3_sse_kms", default=False),
        )
        synchronous = switch(parameters, "synchronous", default=True)
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
        minimum = max(integer(parameters, "min_worker", 1), 0)
        maximum = integer(parameters, "max_worker", minimum)
        synchronous = switch(parameters, "synchronous", default=False)
        count = await self._management.scale(name, version, minimum, maximum, wait=synchronous)
        if not synchronous:
            return 202, {"status": "Processing worker updates..."}
        text = f"Workers scaled to {count} for model: {name}"
        return 200, {"status": text + (f", version: {version}" if version else "")}

    async def _set_default(self, name: str, version: str, _parameters: Parameters) -> Answer:
        await self._management.set_default(name, version)
        text = f'Default version successfully updated for model "{name}" to "{version}"'
        return 200, {"status": text}

    async def _unregister(self, name: str, version: str, _parameters: Parameters) -> Answer:
        await self._management.unregister(name, version)
        return 200, {"status": f'Model "{name}" unregistered'}
