"""KServe's paths (contract.md sections 5.1, 5.10 and 6.1).

The payload is the handler's business, as on every other route: an archive for KServe has an
envelope (`service_envelope`) or a handler that reads KServe's JSON.
"""

from collections.abc import Awaitable, Callable

from starlette.types import Receive, Scope, Send

from flambeau import COMPATIBLE_VERSION
from flambeau.protocols.http import Endpoint, ModelEndpoint, method_not_allowed, respond_json
from flambeau.protocols.operations import KSERVE, KSERVE_READY, OPEN_INFERENCE, Operation
from flambeau.protocols.prediction import Call, Predictor
from flambeau.serving.inference import DataPlane, Inference

_EXTENSIONS = ["kserve", "kubeflow"]


class KServe:
    """`/v1/models/{m}:predict|:explain` and `/v2/models/{m}/infer|explain`."""

    operations: tuple[Operation, ...] = KSERVE

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def endpoint(self, method: str, segments: list[str]) -> Endpoint | None:
        """The endpoint for a path of either version."""
        match segments:
            case ["v1", "models", last] if last.endswith((":predict", ":explain")):
                name, _, verb = last.rpartition(":")
            case ["v2", "models", name, "infer" | "explain" as verb]:
                pass
            case _:
                return None
        told = {"explain": str(verb == "explain")}
        return self._predictor.endpoint(method, Call(name, told=told))


class OpenInference:
    """What TorchServe answers of the Open Inference Protocol when it is enabled (section 5.10)."""

    operations: tuple[Operation, ...] = OPEN_INFERENCE

    def __init__(self, inference: DataPlane) -> None:
        self._inference = inference

    def endpoint(self, method: str, segments: list[str]) -> Endpoint | None:  # noqa: ARG002
        """The endpoint for the server's metadata, its health, and versions of models."""
        match segments:
            case ["v2"]:
                names: dict[str, object] = {"name": "Torchserve", "version": COMPATIBLE_VERSION}
                # The protocol's key, and how TorchServe spells it.
                names |= {"extensions": _EXTENSIONS, "extenstion": _EXTENSIONS}
                return _constant(lambda: (200, names))
            case ["v2", "health", "live"]:
                return _constant(lambda: (200, {"live": True}))
            case ["v2", "health", "ready"]:
                return self._ready
            case ["v2", "models", _, "versions", _, *_]:
                text = "Model versioning is not yet supported."
                return _constant(lambda: (501, {"error": text}))
            case _:
                return None

    async def _ready(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        ready = await self._inference.ready()
        await respond_json(send, {"ready": ready}, 200 if ready else 503)


class KServeReadiness:
    """`GET /v1/models/{m}` of the management API."""

    operations: tuple[Operation, ...] = KSERVE_READY

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    def endpoint(self, method: str, segments: list[str]) -> Endpoint | None:
        """The endpoint for a model's readiness."""
        match segments:
            case ["v1", "models", last]:
                if method != "GET":
                    raise method_not_allowed()
                name = last.partition(":")[0]
                ready = _constant(
                    lambda: (200, {"name": name, "ready": self._inference.model_ready(name)})
                )
                return ModelEndpoint(name, ready)
            case _:
                return None


def _constant(document: Callable[[], tuple[int, object]]) -> Endpoint:
    def answer(_scope: Scope, _receive: Receive, send: Send) -> Awaitable[None]:
        status, body = document()
        return respond_json(send, body, status)

    return answer
