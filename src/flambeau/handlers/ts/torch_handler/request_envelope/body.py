"""The envelope that hands the handler the bare content of each row."""

from typing import Any

from typing_extensions import override

from flambeau.handlers.ts.torch_handler.request_envelope.base import BaseEnvelope, payload

__all__ = ["BodyEnvelope"]


class BodyEnvelope(BaseEnvelope):
    """Rows become their `data` or `body`; answers stay as they are."""

    @override
    def parse_input(self, data: Any) -> Any:
        return [payload(row) for row in data]

    @override
    def format_output(self, data: Any) -> Any:
        return data
