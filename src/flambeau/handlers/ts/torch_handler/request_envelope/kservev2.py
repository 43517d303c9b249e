"""The envelope for KServe's second protocol, the Open Inference Protocol."""

from typing import Any

import numpy as np
from typing_extensions import override

from flambeau.handlers.ts.torch_handler.request_envelope.base import RowEnvelope, document
from flambeau.handlers.ts.utils.util import PredictionException

__all__ = ["KServev2Envelope"]

_DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}


class KServev2Envelope(RowEnvelope):
    """A request's inputs are the handler's batch; each of its results is one output.

    An input is `{name, shape, datatype, data}` with `data` in its shape, or the first element for
    BYTES. An output bears the name of the input at its place, and its data is flat.
    """

    def __init__(self, handle_fn: Any) -> None:
        super().__init__(handle_fn)
        self._request_id: str | None = None
        self._names: list[str] = []

    @override
    def parse_input(self, data: Any) -> Any:
        request = document(data[0])
        request_id = request.get("id")
        self._request_id = request_id if isinstance(request_id, str) else None
        inputs = request.get("inputs")
        if not isinstance(inputs, list):
            raise PredictionException('The request needs a list "inputs".', 400)
        parsed = [_parsed(item) for item in inputs]
        self._names = [item["name"] for item in parsed]
        return parsed

    @override
    def format_output(self, data: Any) -> Any:
        model = (self.context.manifest or {}).get("model", {})
        request_id = (self._request_id or "").strip()
        return [
            {
                "id": self._request_id if request_id else self.context.get_request_id(0),
                "model_name": model.get("modelName", self.context.model_name),
                "model_version": model.get("modelVersion"),
                "outputs": [self._output(index, item) for index, item in enumerate(data)],
            }
        ]

    def _output(self, index: int, data: Any) -> dict[str, Any]:
        flat = np.array(data).flatten()
        return {
            "name": self._names[index] if index < len(self._names) else f"output-{index}",
            "datatype": _DATATYPES.get(str(flat.dtype), "BYTES"),
            "data": flat.tolist(),
            "shape": list(flat.shape),
        }


def _parsed(item: Any) -> dict[str, Any]:
    """One input with its data in shape; PredictionException with status 400 if it is wrong."""
    try:
        name, datatype, data = item["name"], item["datatype"], item["data"]
        if datatype == "BYTES":
            return {**item, "data": data[0]}
        return {**item, "name": name, "data": np.array(data).reshape(item["shape"]).tolist()}
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise PredictionException(
            f"An input needs name, shape, datatype and data that fit together: {error}", 400
        ) from error
