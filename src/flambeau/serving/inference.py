"""The data plane: finds the model, hands the request over, says whether the server is healthy."""

import uuid

from flambeau.scheduling.queue import Entry
from flambeau.serving.registry import Registry
from flambeau.types import Field, InferenceRequest


class Inference:
    """Predictions, for every protocol."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def submit(
        self,
        name: str,
        version: str,
        headers: dict[str, str],
        fields: list[Field],
        request_id: str = "",
    ) -> Entry:
        """Accept one request for a model; `version` "" means its default.

        The caller reads the answer from the entry, and cancels it if the client leaves.
        """
        model = self._registry.get(name, version)
        request = InferenceRequest(request_id or str(uuid.uuid4()), headers, fields)
        return model.submit(request, version)

    def check_model(self, name: str, version: str) -> None:
        """Raise the error of a request for this model before its body is read, if there is one."""
        self._registry.get(name, version)

    def healthy(self) -> bool:
        """Whether each name's default version has the workers it should have (section 5.9).

        Workers that are being loaded for the first time count; workers that fail to load do not.
        """
        for model in self._registry:
            if not self._registry.is_default(model):
                continue
            working = [slot for slot in model.pool.active() if slot.error is None]
            if len(working) < model.minimum:
                return False
        return True
