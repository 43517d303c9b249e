"""Drives the native handler without a server."""

import json
from pathlib import Path
from typing import Any

from flambeau.handlers.native import TransformersHandler
from flambeau.handlers.ts.context import Context, RequestProcessor
from flambeau.types import JsonValue, OutputShape


class ServedNative:
    """A model folder behind the native handler, called as the runner calls it.

    `settings` are those of the `handler:` section of model-config.yaml.
    """

    def __init__(
        self,
        folder: Path,
        default_output: OutputShape | None = None,
        file: str = "model.safetensors",
        **settings: JsonValue,
    ) -> None:
        manifest: dict[str, object] = {"model": {"modelName": "m", "serializedFile": file}}
        config = {"handler": settings} if settings else {}
        self.context = Context("m", str(folder), manifest, 8, None, "0", model_yaml_config=config)
        self.handler = TransformersHandler(default_output)
        self.handler.initialize(self.context)

    def __call__(self, *bodies: object, headers: dict[str, str] | None = None) -> list[Any]:
        """The results of one batch with these bodies, each request with the same headers."""
        return self.rows(*({"body": body} for body in bodies), headers=headers)

    def rows(self, *rows: dict[str, object], headers: dict[str, str] | None = None) -> list[Any]:
        """The results of one batch of whole rows; what is JSON already is read again."""
        self.context.request_processor = [RequestProcessor(headers or {}) for _ in rows]
        results = self.handler.handle(rows, self.context)
        return [json.loads(each) if isinstance(each, bytes) else each for each in results]

    def headers(self, index: int) -> dict[str, str]:
        """The response headers of item `index` of the last batch."""
        assert self.context.request_processor is not None
        return self.context.request_processor[index].get_response_headers()
