"""Frames between server and worker, and streaming answers, under their older names (section 9.7)."""

import json
import logging
import os
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from flambeau.handlers.ts.protocol.frames import Part, encode_response, item_bytes
from flambeau.handlers.ts.utils.util import PredictionException

__all__ = [
    "create_load_model_response",
    "create_predict_response",
    "retrieve_msg",
    "send_intermediate_predict_response",
]

_logger = logging.getLogger(__name__)

LOAD_MSG = b"L"
PREDICT_MSG = b"I"
HTTP_OK = 200


def send_intermediate_predict_response(
    ret: Sequence[object],
    req_id_map: Mapping[int, str] | None,
    message: str,
    code: int,
    context: Any = None,
) -> None:
    """Send one chunk of each answer now; the handler's return value is the last chunk.

    `ret` has one entry per row; `req_id_map` (`context.request_ids`) says which request each one
    belongs to. A `code` other than 200 ends every answer with that error and `message`; the status
    of a chunk comes from the context. Does nothing on other ranks than the first of a distributed
    handler.
    """
    if _rank() != 0:
        return
    if context is None or context.chunk_sink is None:
        raise RuntimeError("no request is running: a chunk can only be sent from within handle()")
    if code != HTTP_OK:
        ids = req_id_map or context.request_ids
        context.chunk_sink([PredictionException(message, code)] * len(ids), ids)
        return
    context.chunk_sink(ret, req_id_map)


def _rank() -> int:
    """This process's rank in a distributed handler, 0 without one."""
    torch = sys.modules.get("torch")
    distributed = None if torch is None else torch.distributed
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    return int(os.environ.get("LOCAL_RANK", "0"))  # noqa: TID251 - torchrun's interface


def create_predict_response(
    ret: Any,
    req_id_map: Mapping[int, str],
    message: str,
    code: int,
    context: Any = None,
    ts_stream_next: bool = False,
) -> bytes | None:
    """The response frame for a batch's results (`ret` None: an error); None on other ranks than 0.

    With a context its statuses and headers go along; `ts_stream_next` marks a chunk that is not
    the last. A result that cannot be sent makes the frame an error of 503.
    """
    if _rank() != 0:
        return None
    parts = []
    for index, request_id in req_id_map.items():
        try:
            body = b"error" if ret is None else item_bytes(ret[index])[0]
        except (TypeError, ValueError, RecursionError, OverflowError):
            _logger.warning("Unable to serialize model output.", exc_info=True)
            text = "Unsupported model output data type."
            return create_predict_response(None, req_id_map, text, 503)
        if context is None:
            parts.append(Part(request_id, body, status=code))
            continue
        headers = dict(context.get_response_headers(index))
        more = _more_to_come(ret, index, context, ts_stream_next)
        if more is not None:
            headers["ts_stream_next"] = more
        status, phrase = context.get_response_status(index)
        content_type = context.get_response_content_type(index) or ""
        parts.append(
            Part(
                request_id, body, content_type, 200 if status is None else status, phrase or ""
            )._replace(headers=headers)
        )
    return encode_response(code, message, parts)


def _more_to_come(ret: Any, index: int, context: Any, ts_stream_next: bool) -> str | None:
    """The mark of a chunk ("true", or "false" on the last one); None for a whole answer."""
    if ts_stream_next:
        return "true"
    if not context.stopping_criteria:
        return None
    stop = context.stopping_criteria[index](ret[index])
    return None if stop is None else str(not stop).lower()


def create_load_model_response(code: int, message: str) -> bytes:
    """The frame that answers a load message."""
    return encode_response(code, message, [])


def retrieve_msg(conn: Any) -> tuple[bytes, Any]:
    """(command, content) of the next frame on a socket.

    `L`oad gives a dict of byte strings and numbers; `I`nference a list of requests `{requestId,
    headers, parameters}`. ConnectionError where the socket closes, ValueError for another command.
    """
    command = bytes(_bytes(conn, 1))
    if command == LOAD_MSG:
        return command, _load_message(conn)
    if command == PREDICT_MSG:
        return command, _until_end(conn, _request)
    raise ValueError(f"Invalid command: {command!r}")


def _load_message(conn: Any) -> dict[str, Any]:
    message: dict[str, Any] = {
        "modelName": _counted(conn),
        "modelPath": _counted(conn),
        "batchSize": _number(conn),
        "handler": _counted(conn),
    }
    gpu = _number(conn)
    if gpu >= 0:
        message["gpu"] = gpu
    message["envelope"] = _counted(conn)
    message["limitMaxImagePixels"] = _bytes(conn, 1) != b"\0"
    return message


def _request(conn: Any, length: int) -> dict[str, Any]:
    return {
        "requestId": _bytes(conn, length),
        "headers": _until_end(conn, _header),
        "parameters": _until_end(conn, _parameter),
    }


def _header(conn: Any, length: int) -> dict[str, Any]:
    return {"name": _bytes(conn, length), "value": _counted(conn)}


def _parameter(conn: Any, length: int) -> dict[str, Any]:
    name = _bytes(conn, length).decode("utf-8")
    content_type = _counted(conn).decode("utf-8")
    value: Any = _counted(conn)
    decode = os.environ.get("TS_DECODE_INPUT_REQUEST", "true")  # noqa: TID251 - TorchServe's own
    try:
        if decode == "true" and content_type == "application/json":
            value = json.loads(value)
        elif decode == "true" and content_type.startswith("text"):
            value = value.decode("utf-8")
    except ValueError:
        _logger.warning("The parameter %s is not %s; it stays bytes.", name, content_type)
    return {"name": name, "contentType": content_type, "value": value}


def _until_end(conn: Any, read: Any) -> list[dict[str, Any]]:
    found = []
    while (length := _number(conn)) != -1:
        found.append(read(conn, length))
    return found


def _counted(conn: Any) -> bytearray:
    return _bytes(conn, _number(conn))


def _number(conn: Any) -> int:
    value: int = struct.unpack("!i", _bytes(conn, 4))[0]
    return value


def _bytes(conn: Any, length: int) -> bytearray:
    data = bytearray()
    while len(data) < length:
        part = conn.recv(length - len(data))
        if not part:
            raise ConnectionError("the server has closed the connection")
        data += part
    return data
