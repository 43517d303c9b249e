"""The envelope for TensorFlow Serving's row format: `{"instances": […]}`."""

import json
from base64 import b64decode
from typing import Any

from typing_extensions import override

from flambeau.handlers.ts.torch_handler.request_envelope.base import BaseEnvelope, document
from flambeau.handlers.ts.utils.util import PredictionException

__all__ = ["JSONEnvelope"]


class JSONEnvelope(BaseEnvelope):
    """Joins the instances of all requests into one batch; answers `{"predictions": […]}` each.

    `{"b64": …}` values become bytes. A request without instances fails alone, with status 400.
    """

    @override
    def handle(self, data: Any, context: Any) -> Any:
        self.context = context
        if not data:
            return self._handle_fn(data, context)
        instances = [_instances(row) for row in data]
        batch = [item for rows in instances if isinstance(rows, list) for item in rows]
        results = self._handle_fn(batch, context) if batch else []
        if not isinstance(results, list):
            return results
        if len(results) != len(batch):
            raise PredictionException("number of batch response mismatched", 503)
        remaining = iter(results)
        return [
            self.format_output([next(remaining) for _ in rows]) if isinstance(rows, list) else rows
            for rows in instances
        ]

    @override
    def parse_input(self, data: Any) -> Any:
        return [item for row in data for item in _instances_or_raise(row)]

    @override
    def format_output(self, data: Any) -> Any:
        return json.dumps({"predictions": data})


def _instances(row: dict[str, Any]) -> list[Any] | PredictionException:
    """A row's instances, or the row's own error."""
    try:
        return _instances_or_raise(row)
    except PredictionException as error:
        return error


def _instances_or_raise(row: dict[str, Any]) -> list[Any]:
    content = row if "instances" in row else document(row)
    instances = content.get("instances")
    if not isinstance(instances, list):
        raise PredictionException('The request needs a list "instances".', 400)
    return [_decoded(instance) for instance in instances]


def _decoded(value: Any) -> Any:
    """An instance with its base64 values as bytes: itself, or the values of its columns."""
    if not isinstance(value, dict):
        return value
    if list(value) == ["b64"]:
        return _base64(value["b64"])
    return {
        name: _base64(column["b64"])
        if isinstance(column, dict) and list(column) == ["b64"]
        else column
        for name, column in value.items()
    }


def _base64(text: Any) -> bytes:
    try:
        return b64decode(text)
    except (TypeError, ValueError) as error:
        raise PredictionException(f'A "b64" value is not base64: {error}', 400) from error
