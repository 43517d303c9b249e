"""What a handler knows about its model and about the requests of the running batch.

The interface is TorchServe's (contract.md section 9.3), with two improvements: request headers are
found in any letter case, and response header values of any type are turned into text.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from typing_extensions import override

from flambeau.handlers.ts.protocol.frames import parse_response
from flambeau.handlers.ts.utils.util import PredictionException

__all__ = ["Context", "RequestProcessor"]

ChunkSink = Callable[[Sequence[object], Mapping[int, str] | None], None]


class RequestProcessor:
    """One request's headers, and the status and headers that the handler gives its answer."""

    def __init__(self, request_header: Mapping[str, Any]) -> None:
        self._request_header = dict(request_header)
        self._response_header: dict[str, str] = {}
        self._status_code = 200
        self._reason_phrase: str | None = None
        self.status_was_set = False

    def get_request_property(self, key: str) -> Any:
        """The request header `key` in any letter case, or None; the exact spelling comes first.

        A body field's name gives a dict with its content type.
        """
        if key in self._request_header or not isinstance(key, str):
            return self._request_header.get(key)
        lower = key.lower()
        return next((v for name, v in self._request_header.items() if name.lower() == lower), None)

    def get_request_properties(self) -> dict[str, Any]:
        """All request headers, as the client spelled them."""
        return self._request_header

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        """Choose the answer's status code, from 1 to 999, and its reason phrase.

        TypeError or ValueError for a code that is no such number.
        """
        if not 0 < int(code) < 1000:
            raise ValueError(f"a status code is a number from 1 to 999, not {code}")
        self._status_code = int(code)
        self._reason_phrase = reason_phrase
        self.status_was_set = True

    def get_response_status_code(self) -> int:
        """The answer's status code; 200 unless the handler chose another."""
        return self._status_code

    def get_response_status_phrase(self) -> str | None:
        """The answer's reason phrase, or None if the handler set no status."""
        return self._reason_phrase

    def add_response_property(self, key: str, value: object) -> None:
        """Set the response header `key`; its text is `str(value)`."""
        self._response_header[key] = value if isinstance(value, str) else str(value)

    def get_response_headers(self) -> dict[str, str]:
        """The response headers that were set."""
        return self._response_header

    def get_response_header(self, key: str) -> str | None:
        """The response header `key` as it was spelled when set, or None."""
        return self._response_header.get(key)


class Context:
    """A model's surroundings; one object for the life of the worker.

    `request_ids` and `request_processor` are those of the running batch and None while the model
    loads. `compute_threads` is the worker's share of the cores, 0 if nobody says; `measured_engine`
    is what `flambeau tune` found best. Handlers may park attributes of their own on it.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the signature is TorchServe's
        self,
        model_name: str,
        model_dir: str,
        manifest: dict[str, Any] | None,
        batch_size: int,
        gpu: int | None,
        mms_version: str,
        limit_max_image_pixels: bool = True,
        metrics: Any = None,
        model_yaml_config: dict[str, Any] | None = None,
    ) -> None:
        self.model_name = model_name
        self.manifest = manifest
        self.model_yaml_config = {} if model_yaml_config is None else model_yaml_config
        self.metrics = metrics
        self.request_ids: dict[int, str] | None = None
        self.request_processor: list[RequestProcessor] | None = None
        self.stopping_criteria: Any = None
        self.compute_threads = 0
        self.measured_engine: Any = None
        self.to_fork = False
        self.chunk_sink: ChunkSink | None = None
        self.withdrawn: Callable[[], bool] | None = None
        self._cl_socket: Any = None
        self.header_key_sequence_id = _header_name("id")
        self.header_key_sequence_start = _header_name("start")
        self.header_key_sequence_end = _header_name("end")
        self._system_properties = {
            "model_dir": model_dir,
            "gpu_id": gpu,
            "batch_size": batch_size,
            "server_name": "MMS",
            "server_version": mms_version,
            "limit_max_image_pixels": limit_max_image_pixels,
        }

    @property
    def system_properties(self) -> dict[str, Any]:
        """`model_dir`, `gpu_id` (None on the CPU), `batch_size`, the server's name and version."""
        return self._system_properties

    @property
    def cl_socket(self) -> Any:
        """TorchServe's connection to the server: its `sendall` takes response frames."""
        return _ChunkSocket(self) if self._cl_socket is None else self._cl_socket

    @cl_socket.setter
    def cl_socket(self, value: Any) -> None:
        self._cl_socket = value

    def is_cancelled(self) -> bool:
        """Whether every client of the running batch has left: a long handler may stop and return.

        Flambeau's own; what the handler returns then is dropped. Always False in an asynchronous
        worker, whose tasks are cancelled instead.
        """
        return self.withdrawn is not None and self.withdrawn()

    def get_request_id(self, idx: int = 0) -> str | None:
        """The id of request `idx`, or None outside a batch."""
        return None if self.request_ids is None else self.request_ids.get(idx)

    def get_request_header(self, idx: int, key: str) -> Any:
        """Header `key` of request `idx`, in any letter case, or None."""
        return self._request(idx).get_request_property(key)

    def get_all_request_header(self, idx: int) -> dict[str, Any]:
        """All headers of request `idx` as the client spelled them, in a plain dict."""
        return self._request(idx).get_request_properties()

    def get_sequence_id(self, idx: int) -> str:
        """The id of the sequence that request `idx` belongs to."""
        sequence: str = self.get_request_header(idx, self.header_key_sequence_id)
        return sequence

    def set_response_content_type(self, idx: int, value: str) -> None:
        """Set the content type of answer `idx`."""
        self.set_response_header(idx, "content-type", value)

    def get_response_content_type(self, idx: int) -> str | None:
        """The content type that was set for answer `idx`, or None."""
        return self.get_response_headers(idx).get("content-type")

    def set_response_header(self, idx: int, key: str, value: object) -> None:
        """Set a header of answer `idx`; a value that is not text becomes `str(value)`."""
        self._request(idx).add_response_property(key, value)

    def get_response_headers(self, idx: int) -> dict[str, str]:
        """The headers that were set for answer `idx`."""
        return self._request(idx).get_response_headers()

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """Set the status of answer `idx`; does nothing outside a batch."""
        if self.request_processor is not None:
            self.request_processor[idx].report_status(code, reason_phrase=phrase)

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        """Set the status of every answer of the batch."""
        for processor in self.request_processor or ():
            processor.report_status(code, reason_phrase=phrase)

    def get_response_status(self, idx: int) -> tuple[int, str | None]:
        """(code, phrase) of answer `idx`."""
        processor = self._request(idx)
        return processor.get_response_status_code(), processor.get_response_status_phrase()

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Context) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]  # mutable and compared by value

    def _request(self, idx: int) -> RequestProcessor:
        if self.request_processor is None:
            raise RuntimeError("no request is running: headers and statuses exist within a batch")
        return self.request_processor[idx]


class _ChunkSocket:
    """What a handler sees of TorchServe's connection to the server: `sendall` of response frames.

    Each part of a frame becomes a chunk of its request's answer.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    def sendall(self, frame: bytes | bytearray) -> None:
        """Send what `create_predict_response` made; ValueError for anything else."""
        code, message, parts = parse_response(frame)
        if self._context.chunk_sink is None:
            raise RuntimeError("no request is running: a chunk can only be sent within handle()")
        ids = {index: part.request_id for index, part in enumerate(parts)}
        if code == 200:  # HTTP's OK
            self._context.chunk_sink([part.body for part in parts], ids)
        else:
            self._context.chunk_sink([PredictionException(message, code)] * len(parts), ids)


def _header_name(part: str) -> str:
    """The name of a sequence header: TorchServe's, unless the environment has another."""
    default = f"ts_request_sequence_{part}"
    return os.environ.get(default.upper(), default)  # noqa: TID251 - TorchServe's own switch
