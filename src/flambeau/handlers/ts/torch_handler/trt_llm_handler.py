"""The built-in handler `trt_llm_handler`: text generation with TensorRT-LLM (section 9.5)."""

import json
import time
from typing import Any

from transformers import AutoTokenizer
from typing_extensions import override

from flambeau.errors import LoadError
from flambeau.handlers.optional_packages import require
from flambeau.handlers.ts.handler_utils.utils import send_intermediate_predict_response
from flambeau.handlers.ts.torch_handler.base_handler import BaseHandler
from flambeau.handlers.ts.utils.util import PredictionException

__all__ = ["TRTLLMHandler"]

_WHO = "The handler trt_llm_handler"
_WAY_OUT = "pip install tensorrt_llm (NVIDIA GPUs only)"


class TRTLLMHandler(BaseHandler):
    """Answers `{"prompt": …, "streaming": bool, sampling parameters…}`, one request at a time.

    Needs `asyncCommunication: true`. Streamed parts are `{"text": …}`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trt_llm_engine: Any = None
        self.tokenizer: Any = None
        self.model_dir: Any = None
        self._sampling: Any = None

    @override
    def initialize(self, context: Any) -> None:
        """Load the engine in `handler.engine_dir` and the tokenizer in `handler.tokenizer_dir`."""
        self.model_dir = context.system_properties.get("model_dir")
        section = (context.model_yaml_config or {}).get("handler") or {}
        missing = [key for key in ("engine_dir", "tokenizer_dir") if not section.get(key)]
        if missing:
            raise LoadError(f"model-config.yaml lacks handler.{' and handler.'.join(missing)}.")
        library = require("tensorrt_llm", _WHO, _WAY_OUT)
        cache = require("tensorrt_llm.llmapi", _WHO, _WAY_OUT).KvCacheConfig
        self.tokenizer = AutoTokenizer.from_pretrained(
            section["tokenizer_dir"], padding_side="left", truncation_side="left"
        )
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token_id = self.tokenizer.eos_token_id
        self.trt_llm_engine = library.LLM(
            model=section["engine_dir"],
            tokenizer=self.tokenizer,
            kv_cache_config=cache(**section.get("kv_cache_config", {})),
        )
        self._sampling = library.SamplingParams
        self.initialized = True

    @override
    async def handle(self, data: Any, context: Any) -> Any:
        """Answer one request."""
        start = time.monotonic()
        output = await self.inference(await self.preprocess(data), context)
        output = await self.postprocess(output)
        elapsed_ms = round((time.monotonic() - start) * 1000, 2)
        context.metrics.add_time("HandlerTime", elapsed_ms, None, "ms")
        return output

    @override
    async def preprocess(self, data: Any) -> dict[str, Any]:
        """The request as a dict; PredictionException with status 400 if it has no prompt."""
        content = data[0].get("data") or data[0].get("body")
        try:
            if isinstance(content, str | bytes | bytearray):
                content = json.loads(content)
        except ValueError:
            content = None
        if not isinstance(content, dict) or "prompt" not in content:
            raise PredictionException('The request must be JSON with a "prompt".', 400)
        return dict(content)

    @override
    async def inference(self, data: Any, *args: Any, **kwargs: Any) -> list[str]:
        """Generate; `args` is the context."""
        (context,) = args
        prompt, streaming = data.pop("prompt"), bool(data.pop("streaming", False))
        ends = {"end_id": self.tokenizer.eos_token_id, "pad_id": self.tokenizer.pad_token_id}
        parts = self.trt_llm_engine.generate_async(
            prompt, streaming=streaming, sampling_params=self._sampling(**{**ends, **data})
        )
        if not streaming:
            return [(await parts).outputs[0].text]
        async for part in parts:
            text = self.tokenizer.decode([part.outputs[0].token_ids[-1]])
            chunk = [json.dumps({"text": text})]
            send_intermediate_predict_response(chunk, context.request_ids, "Result", 200, context)
        return [""]

    @override
    async def postprocess(self, data: Any) -> Any:
        """The answers as they are."""
        return data
