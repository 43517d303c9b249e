"""The envelope for KServe's first protocol: `{"instances": […]}`."""

from typing import Any

from typing_extensions import override

from flambeau.handlers.ts.torch_handler.request_envelope.base import RowEnvelope, document
from flambeau.handlers.ts.utils.util import PredictionException

__all__ = ["KServeEnvelope"]


class KServeEnvelope(RowEnvelope):
    """A request's instances are the handler's batch; its result is answered as a whole.

    The answer is `{"predictions": result}`, or `{"explanations": result}` for explanations.
    """

    @override
    def parse_input(self, data: Any) -> Any:
        instances = document(data[0]).get("instances")
        if not isinstance(instances, list):
            raise PredictionException('The request needs a list "instances".', 400)
        return instances

    @override
    def format_output(self, data: Any) -> Any:
        explains = self.context.get_request_header(0, "explain") == "True"
        return [{"explanations" if explains else "predictions": data}]
