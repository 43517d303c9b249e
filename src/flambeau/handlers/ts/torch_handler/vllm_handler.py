"""The built-in handler `vllm_handler`: OpenAI's API on a vLLM engine (contract.md section 9.5)."""

import inspect
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import override

from flambeau.errors import LoadError
from flambeau.handlers.optional_packages import require
from flambeau.handlers.ts.handler_utils.utils import send_intermediate_predict_response
from flambeau.handlers.ts.torch_handler.base_handler import BaseHandler
from flambeau.handlers.ts.utils.util import PredictionException

__all__ = ["VLLMHandler"]

_WHO = "The handler vllm_handler"
_WAY_OUT = (
    "pip install vllm, in an environment of the model's own (requirements.txt in the archive)"
)
_OPENAI = "vllm.entrypoints.openai"
_DONE = "data: [DONE]\n\n"
_ENDPOINTS = {
    "v1/completions": ("completion", "CompletionRequest", "create_completion"),
    "v1/chat/completions": ("chat_completion", "ChatCompletionRequest", "create_chat_completion"),
}


class VLLMHandler(BaseHandler):
    """Answers `/predictions/<model>/<version>/v1/…`, one request at a time, many at once.

    Needs `asyncCommunication: true`. Written for vLLM 0.16 and later, whose serving classes lie in
    `vllm.entrypoints.openai.<endpoint>.serving`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.vllm_engine: Any = None
        self.model_dir: Any = None
        self.adapters: dict[str, str] = {}
        self.models: Any = None
        self.completion_service: Any = None
        self.chat_completion_service: Any = None

    @override
    def initialize(self, context: Any) -> None:
        """Start the engine by `handler.vllm_engine_config`, with LoRA adapters by name."""
        self.model_dir = context.system_properties.get("model_dir")
        section = (context.model_yaml_config or {}).get("handler") or {}
        arguments = self._get_vllm_engine_config(section)
        vllm = require("vllm", _WHO, _WAY_OUT)
        self.vllm_engine = vllm.AsyncLLMEngine.from_engine_args(arguments)
        self.adapters = section.get("adapters") or {}
        names = arguments.served_model_name or [arguments.model]
        names = [names] if isinstance(names, str) else list(names)
        protocol = require(f"{_OPENAI}.models.protocol", _WHO, _WAY_OUT)
        settings: dict[str, Any] = {
            "engine_client": self.vllm_engine,
            "base_model_paths": [protocol.BaseModelPath(name, arguments.model) for name in names],
            "lora_modules": [protocol.LoRAModulePath(*item) for item in self.adapters.items()],
            "response_role": "assistant",
            "request_logger": None,
            "chat_template": section.get("chat_template"),
            "chat_template_content_format": "auto",
        }
        self.models = settings["models"] = _made("models", "OpenAIServingModels", settings)
        self.completion_service = _made("completion", "OpenAIServingCompletion", settings)
        self.chat_completion_service = _made("chat_completion", "OpenAIServingChat", settings)
        self.initialized = True

    def _get_vllm_engine_config(self, handler_config: Mapping[str, Any]) -> Any:
        """The engine's arguments; the model is a folder of the archive, a path, or a hub name."""
        given = dict(handler_config.get("vllm_engine_config") or {})
        model = given.pop("model", None) or handler_config.get("model_path")
        if not model:
            raise LoadError(
                "model-config.yaml names no model: set handler.vllm_engine_config.model or "
                "handler.model_path."
            )
        inside = Path(self.model_dir) / model
        arguments = require("vllm", _WHO, _WAY_OUT).AsyncEngineArgs
        known = inspect.signature(arguments).parameters
        return arguments(
            model=str(inside) if inside.exists() else model,
            **{key: value for key, value in given.items() if key in known},
        )

    @override
    async def handle(self, data: Any, context: Any) -> Any:
        """Answer one request."""
        start = time.monotonic()
        output = await self.inference(await self.preprocess(data, context), context)
        output = await self.postprocess(output)
        elapsed_ms = round((time.monotonic() - start) * 1000, 2)
        context.metrics.add_time("HandlerTime", elapsed_ms, None, "ms")
        return output

    @override
    async def preprocess(self, data: Any, context: Any = None) -> list[Any]:
        """The request's JSON, in a list of one."""
        content = data[0].get("data") or data[0].get("body")
        if isinstance(content, str | bytes | bytearray):
            try:
                content = json.loads(content)
            except ValueError:
                raise PredictionException("The request's body is not JSON.", 400) from None
        return [content]

    @override
    async def inference(self, data: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """Ask the endpoint that the request's path names; `args` is the context."""
        (context,) = args
        path = context.get_request_header(0, "url_path")
        if path == "v1/models":
            return [(await self.models.show_available_models()).model_dump()]
        if path not in _ENDPOINTS:
            raise PredictionException(f"Unknown API endpoint: {path}", 404)
        folder, request_type, method = _ENDPOINTS[path]
        protocol = require(f"{_OPENAI}.{folder}.protocol", _WHO, _WAY_OUT)
        request = getattr(protocol, request_type).model_validate(data[0])
        service = getattr(self, f"{folder}_service")
        answer = await getattr(service, method)(request, None)
        if not hasattr(answer, "__aiter__"):  # a whole answer, or an error
            return [answer.model_dump()]
        context.set_response_content_type(0, "text/event-stream")
        last = _DONE
        async for last in answer:
            if last != _DONE:
                ids = context.request_ids
                send_intermediate_predict_response([last], ids, "Result", 200, context)
        return [last]

    @override
    async def postprocess(self, data: Any) -> Any:
        """The answers as they are."""
        return data


def _made(folder: str, name: str, settings: Mapping[str, Any]) -> Any:
    """One of vLLM's serving objects, given those settings that this version knows."""
    made = getattr(require(f"{_OPENAI}.{folder}.serving", _WHO, _WAY_OUT), name)
    known = inspect.signature(made).parameters
    return made(**{key: value for key, value in settings.items() if key in known})
