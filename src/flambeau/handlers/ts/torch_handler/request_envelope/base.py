"""What all envelopes share."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from typing_extensions import override

from flambeau.handlers.ts.handler_utils.request_groups import requests_of
from flambeau.handlers.ts.utils.util import PredictionException

__all__ = ["BaseEnvelope", "RowEnvelope", "document", "payload"]

HandleFunction = Callable[[Any, Any], Any]


class BaseEnvelope(ABC):
    """Wraps a handler's `handle(data, context)`."""

    def __init__(self, handle_fn: HandleFunction) -> None:
        self._handle_fn = handle_fn
        self.context: Any = None

    def handle(self, data: Any, context: Any) -> Any:
        """Translate the batch, run the handler, translate its answers."""
        self.context = context
        if data:
            data = self.parse_input(data)
        results = self._handle_fn(data, context)
        return self.format_output(results) if results else results

    @abstractmethod
    def parse_input(self, data: Any) -> Any:
        """The handler's input for the rows in `data`."""

    @abstractmethod
    def format_output(self, data: Any) -> Any:
        """The answers, one per row, for the handler's result."""


class RowEnvelope(BaseEnvelope):
    """An envelope for formats in which one request is a whole batch for the handler.

    The handler runs once per row and sees only that row's request in the context, as it did under
    TorchServe, where such a format worked with a batch size of 1 only. A bad row fails alone.
    """

    @override
    def handle(self, data: Any, context: Any) -> Any:
        if not data:
            return super().handle(data, context)
        answers: list[Any] = []
        for index, row in enumerate(data):
            with requests_of(context, [index]):
                answers.append(self._handle_row(row, context))
        return answers

    def _handle_row(self, row: Any, context: Any) -> Any:
        """The answer to one row, or the exception that is its error."""
        try:
            results = super().handle([row], context)
        except PredictionException as error:
            return error
        if isinstance(results, list) and len(results) == 1:
            return results[0]
        return PredictionException("number of batch response mismatched", 503)


def payload(row: dict[str, Any]) -> Any:
    """A row's content: its `data` field, else its `body`."""
    return row.get("data") or row.get("body")


def document(row: dict[str, Any]) -> dict[str, Any]:
    """A row's content as a JSON object; PredictionException with status 400 if it is none."""
    content = payload(row)
    if isinstance(content, str | bytes | bytearray):
        try:
            content = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise PredictionException(f"The request's body is not JSON: {error}", 400) from error
    if not isinstance(content, dict):
        raise PredictionException("The request's body must be a JSON object.", 400)
    return content
