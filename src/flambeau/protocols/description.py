"""Every listener's description of itself: an OpenAPI document (contract.md section 6.9)."""

from collections.abc import Callable, Sequence

import msgspec
from starlette.types import Receive, Scope, Send

from flambeau.protocols.http import (
    Endpoint,
    HttpProtocol,
    PublicEndpoint,
    method_not_allowed,
    respond_json,
)
from flambeau.protocols.operations import DESCRIPTION, METRICS, Operation, api_document


class Description:
    """`OPTIONS /`, `/api-description` and `/openapi.json`: what the listener's protocols do.

    `metrics_url` is where metrics are served, "" if nowhere; TorchServe describes them everywhere.
    """

    operations: tuple[Operation, ...] = DESCRIPTION

    def __init__(self, protocols: Sequence[HttpProtocol], metrics_url: Callable[[], str]) -> None:
        self._protocols = protocols
        self._metrics_url = metrics_url

    def endpoint(self, method: str, segments: list[str]) -> Endpoint | None:
        """The endpoint for one of the paths."""
        match segments:
            case ["api-description" | "openapi.json"]:
                return PublicEndpoint(self.describe)
            case []:
                if method != "OPTIONS":
                    raise method_not_allowed()
                return PublicEndpoint(self.describe)
            case _:
                return None

    async def describe(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send the document."""
        served = [operation for each in self._protocols for operation in each.operations]
        operations = (*self.operations, *served)
        url = self._metrics_url()
        if url and not any(operation.path == METRICS[0].path for operation in operations):
            elsewhere = [msgspec.structs.replace(operation, server=url) for operation in METRICS]
            operations = (*operations, *elsewhere)
        await respond_json(send, api_document(operations))
