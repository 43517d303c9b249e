"""Whether the server is well: TorchServe's `/ping` (contract.md section 5.9), and Kubernetes' probes."""

from functools import partial
from typing import get_args

from starlette.types import Receive, Scope, Send

from flambeau.protocols.http import Endpoint, PublicEndpoint, respond_json
from flambeau.protocols.openapi import (
    STRING,
    Body,
    Operation,
    array_of,
    described,
    object_schema,
    reference,
)
from flambeau.serving.inference import DataPlane
from flambeau.serving.readiness import Probe

_PROBES: dict[str, Probe] = {probe: probe for probe in get_args(Probe)}


_STATUS = Body(reference("Status"))
_PING = (
    Operation(
        "ping",
        "get",
        "/ping",
        "Whether the models have the workers that they should have.",
        {200: ("Healthy", _STATUS), 500: ("Unhealthy", _STATUS)},
    ),
)
_PROBE = Body(
    object_schema(
        status={"type": "string", "enum": ["yes", "no"]},
        lacking=described(array_of(STRING), "What is missing, one line each."),
    )
)


def _probe(name: str, summary: str) -> Operation:
    answers: dict[int, tuple[str, Body | None]] = {200: ("Yes", _PROBE), 503: ("No", _PROBE)}
    return Operation(name, "get", f"/{name}", summary, answers)


_PROBE_OPERATIONS = (
    _probe("livez", "Whether the server answers; no model matters."),
    _probe("readyz", "Whether every model has its workers, and they have shown that they answer."),
    _probe("startupz", "Whether the models of the configuration are loaded."),
)


class Health:
    """`/ping` and everything below it, with any method."""

    operations: tuple[Operation, ...] = _PING

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


class Probes:
    """`/livez`, `/readyz` and `/startupz` (promises.md G21)."""

    operations: tuple[Operation, ...] = _PROBE_OPERATIONS

    def __init__(self, inference: DataPlane) -> None:
        self._inference = inference

    def endpoint(self, method: str, segments: list[str]) -> Endpoint | None:
        """The endpoint of a probe; public, since a probe has no key."""
        if len(segments) != 1 or method not in ("GET", "HEAD"):
            return None
        probe = _PROBES.get(segments[0])
        return PublicEndpoint(partial(self._answer, probe)) if probe is not None else None

    async def _answer(self, probe: Probe, _scope: Scope, _receive: Receive, send: Send) -> None:
        lacking = await self._inference.lacks(probe)
        document = {"status": "no" if lacking else "yes", "lacking": lacking}
        await respond_json(send, document, 503 if lacking else 200)
