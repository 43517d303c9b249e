"""Whether the server is well: TorchServe's `/ping` (contract.md section 5.9)."""

from starlette.types import Receive, Scope, Send

from flambeau.protocols.http import Endpoint, PublicEndpoint, respond_json
from flambeau.protocols.operations import PING, Operation
from flambeau.serving.inference import DataPlane


class Health:
    """`/ping` and everything below it, with any method."""

    operations: tuple[Operation, ...] = PING

    def __init__(self, inference: DataPlane) -> None:
        self._inference = inference

    def endpoint(self, method: str, segments: list[str]) -> Endpoint | None:  # noqa: ARG002
        """The endpoint of `/ping…`; public, since a probe has no key (contract.md section 12.3)."""
        return PublicEndpoint(self.ping) if segments[:1] == ["ping"] else None

    async def ping(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Healthy (200) or Unhealthy (500), by the models' default versions."""
        healthy = await self._inference.healthy()
        status = "Healthy" if healthy else "Unhealthy"
        await respond_json(send, {"status": status}, 200 if healthy else 500)
