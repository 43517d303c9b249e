"""What Amazon SageMaker calls: `/invocations` and `/models/{m}/invoke` (contract.md section 5.1).

Query parameters are fields of the row here, before those of the body.
"""

from starlette.types import Receive, Scope, Send

from flambeau.errors import ErrorKind, FlambeauError
from flambeau.protocols.http import Endpoint
from flambeau.protocols.operations import SAGEMAKER, Operation
from flambeau.protocols.prediction import Call, Predictor, query_parameters
from flambeau.serving.inference import DataPlane

_PARAMETER = "model_name"


class SageMaker:
    """SageMaker's routes for one model, and for several."""

    operations: tuple[Operation, ...] = SAGEMAKER

    def __init__(self, predictor: Predictor, inference: DataPlane) -> None:
        self._predictor = predictor
        self._inference = inference

    def endpoint(self, method: str, segments: list[str]) -> Endpoint | None:
        """The endpoint for one of the two paths."""
        match segments:
            case ["invocations"]:

                async def invoke(scope: Scope, receive: Receive, send: Send) -> None:
                    await self._invoke(method, scope, receive, send)

                return invoke
            case ["models", name, "invoke"]:
                return self._predictor.endpoint(method, Call(name, query_fields=True))
            case _:
                return None

    async def _invoke(self, method: str, scope: Scope, receive: Receive, send: Send) -> None:
        name = (
            dict(reversed(query_parameters(scope))).get(_PARAMETER, b"").decode("utf-8", "replace")
        )
        name = name or await self._only_startup_model()
        if name:
            await self._predictor.endpoint(method, Call(name, query_fields=True))(
                scope, receive, send
            )
            return
        call = Call("", query_fields=True)
        fields = await self._predictor.fields(call, scope, receive)
        named = next((field.value for field in fields if field.name == _PARAMETER), b"")
        if not named:
            raise FlambeauError(ErrorKind.INVALID_INPUT, "Parameter model_name is required.")
        call = Call(named.decode("utf-8", "replace"), query_fields=True)
        await self._predictor.answer(call, fields, scope, send)

    async def _only_startup_model(self) -> str:
        names = await self._inference.startup_names()
        return names[0] if len(names) == 1 else ""
