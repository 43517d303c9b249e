"""The data plane: finds the model, hands the request over, says whether the server is healthy."""

import uuid
from typing import Protocol

import msgspec

from flambeau.errors import ErrorKind, FlambeauError
from flambeau.scheduling.held_bytes import HeldBytes
from flambeau.scheduling.queue import Entry
from flambeau.serving.readiness import Probe, Readiness
from flambeau.serving.registry import Registry
from flambeau.types import Field, InferenceRequest

_NO_WORKER = (
    'Model "{}" has no worker to serve describe request.'
    " Please use scale workers API to add workers."
)
_NO_ANSWER = "Failed to get customized model metadata: no answer within responseTimeout."


class DataPlane(Protocol):
    """What protocols ask for: of `Inference`, or of the core behind a socket.

    `pending` counts the bytes of bodies that this process holds and nobody has answered.
    """

    pending: HeldBytes

    def submit(
        self,
        name: str,
        version: str,
        headers: dict[str, str],
        fields: list[Field],
        request_id: str,
    ) -> Entry:
        """Accept one request for a model; `version` "" means its default.

        The caller reads the answer from the entry, and cancels it if the client leaves. An error
        may be raised here, or be the entry's.
        """

    async def check_model(self, name: str, version: str) -> None:
        """Raise the error of a request for this model before its body is read, if there is one."""

    def check_room(self, name: str, version: str) -> None:
        """Raise the error of a request for this model that is refused whatever its body is.

        It may be left to `submit`.
        """

    async def startup_names(self) -> list[str]:
        """Names of the models that were loaded when the server started, sorted."""

    async def ready(self) -> bool:
        """Whether each name's default version has all the workers that it should have, loaded."""

    async def healthy(self) -> bool:
        """Whether each name's default version has the workers it should have (section 5.9)."""

    async def lacks(self, probe: Probe) -> list[str]:
        """What the server lacks for a probe's yes, for people; empty: nothing."""


class Inference:
    """Predictions, for every protocol: the `DataPlane` of the server process."""

    def __init__(self, registry: Registry, readiness: Readiness, pending: HeldBytes) -> None:
        self.pending = pending
        self._registry = registry
        self._readiness = readiness

    def submit(
        self,
        name: str,
        version: str,
        headers: dict[str, str],
        fields: list[Field],
        request_id: str = "",
    ) -> Entry:
        """Accept one request for a model. Raises the error of one that is refused."""
        return self.accept(
            name, version, InferenceRequest(request_id or str(uuid.uuid4()), headers, fields)
        )

    def accept(self, name: str, version: str, request: InferenceRequest) -> Entry:
        """Accept a request that is one already."""
        return self._registry.get(name, version).submit(request, version)

    async def describe(self, name: str, version: str) -> dict[str, object]:
        """What the handler's `describe_handle` tells; {} if that is no object (section 6.3).

        Raises `FlambeauError` (NO_WORKER, TIMEOUT, or the handler's own).
        """
        model = self._registry.get(name, version)
        request = InferenceRequest(str(uuid.uuid4()), {"describe": "True"}, [])
        try:
            entry = model.describe(request)
            body = b"".join([chunk.body async for chunk in entry.chunks()])
        except FlambeauError as error:
            texts = {ErrorKind.NO_WORKER: _NO_WORKER.format(name), ErrorKind.TIMEOUT: _NO_ANSWER}
            if error.kind not in texts:
                raise
            raise FlambeauError(error.kind, texts[error.kind]) from None
        try:
            document = msgspec.json.decode(body)
        except msgspec.DecodeError:
            document = None
        return document if isinstance(document, dict) else {}

    async def check_model(self, name: str, version: str) -> None:
        """Raise the error of a request for this model before its body is read, if there is one."""
        self._registry.get(name, version)

    def check_room(self, name: str, version: str) -> None:
        """Raise the error of a request for this model that is refused whatever its body is."""
        self._registry.get(name, version).check_room(version)

    async def startup_names(self) -> list[str]:
        """Names of the models that were loaded when the server started, sorted."""
        return sorted({m.key.name for m in self._registry if m.registration.at_startup})

    def model_ready(self, name: str) -> bool:
        """Whether the name's default version has a worker that has loaded it."""
        return self._registry.get(name).pool.ready_count() > 0

    async def ready(self) -> bool:
        """Whether each name's default version has all the workers that it should have, loaded."""
        return not self._readiness.draining and all(
            model.pool.ready_count() >= model.minimum
            for model in self._registry
            if self._registry.is_default(model)
        )

    async def healthy(self) -> bool:
        """Whether each name's default version has the workers it should have (section 5.9).

        Workers that are being loaded for the first time count; workers that fail to load do not. A
        server that is being stopped is not healthy: whoever asks should go elsewhere.
        """
        if self._readiness.draining:
            return False
        for model in self._registry:
            if not self._registry.is_default(model):
                continue
            if model.pool.healthy_count() < model.minimum:
                return False
        return True

    async def lacks(self, probe: Probe) -> list[str]:
        """What the server lacks for a probe's yes, for people; empty: nothing."""
        return await self._readiness.lacks(probe)
