"""TorchServe's inference API: `/predictions`, `/explanations` and the legacy routes (section 5.1)."""

from flambeau.protocols.http import Endpoint
from flambeau.protocols.operations import PREDICTIONS, Operation
from flambeau.protocols.prediction import Call, Predictor

_NOT_LEGACY = frozenset(
    {"models", "predictions", "explanations", "workflows", "wfpredict", "v1", "v2", "token"}
)


class Predictions:
    """Routes that name the model, its version, and perhaps a path of the handler's own."""

    operations: tuple[Operation, ...] = PREDICTIONS

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def endpoint(self, method: str, segments: list[str]) -> Endpoint | None:
        """The endpoint for a path of this API; every method predicts, as in TorchServe."""
        call: Call | None = None
        match segments:
            case ["predictions" | "explanations" as kind, name, *rest]:
                told = {"explain": str(kind == "explanations"), "url_path": "/".join(rest[1:])}
                call = Call(name, "".join(rest[:1]), told)
            case [name, "predict"] if name not in _NOT_LEGACY:
                call = Call(name, query_fields=True)
            case [name, version, "predict"] if name not in _NOT_LEGACY:
                call = Call(name, version, query_fields=True)
            case _:
                pass
        return None if call is None else self._predictor.endpoint(method, call)
