"""TorchServe's metrics API: Prometheus text on `/metrics` (contract.md section 7.1)."""

from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send

from flambeau.protocols.http import Endpoint, respond
from flambeau.protocols.operations import METRICS, Operation
from flambeau.serving.registry import Registry
from flambeau.telemetry.metrics import CONTENT_TYPE, Metrics


class MetricsApi:
    """The metrics API over HTTP; repeated `name[]` parameters choose metrics by name."""

    operations: tuple[Operation, ...] = METRICS

    def __init__(self, metrics: Metrics, registry: Registry) -> None:
        self._metrics = metrics
        self._registry = registry

    def endpoint(self, method: str, segments: list[str]) -> Endpoint | None:  # noqa: ARG002
        """`/metrics` and everything below it."""
        return self.render if segments[:1] == ["metrics"] else None

    async def render(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Send the metrics."""
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        for model in self._registry:
            model.publish_state()
        await respond(send, 200, self._metrics.render(query.get("name[]", [])), CONTENT_TYPE)
