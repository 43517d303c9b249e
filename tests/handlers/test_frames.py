"""TorchServe's frames and service objects, for code that makes or reads them (contract.md 9.7)."""

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from flambeau.handlers.ts.async_service import AsyncService
from flambeau.handlers.ts.context import Context, RequestProcessor
from flambeau.handlers.ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from flambeau.handlers.ts.protocol.frames import pack_text, parse_response
from flambeau.handlers.ts.protocol.otf_message_handler import (
    create_load_model_response,
    create_predict_response,
    retrieve_msg,
)
from flambeau.handlers.ts.service import PredictionException, Service

Load = Any  # the fixture of conftest.py


def number(value: int) -> bytes:
    return struct.pack("!i", value)


def request(identity: str, value: bytes = b"x", content_type: str = "") -> bytes:
    """One request of an inference frame: a header `A: 1` and a parameter `body`."""
    header = pack_text("A") + pack_text("1") + number(-1)
    parameter = pack_text("body") + pack_text(content_type) + pack_text(value) + number(-1)
    return pack_text(identity) + header + parameter


def inference(*requests: bytes) -> bytes:
    return b"I" + b"".join(requests) + number(-1)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(30)
        theirs.settimeout(30)
        yield ours, theirs


def service(entry: Any, tmp_path: Path, manifest: dict[str, Any] | None = None) -> Service:
    metrics = MetricsCacheYamlImpl(model_name="m")
    return Service("m", str(tmp_path), manifest, entry, None, 1, metrics_cache=metrics)


def test_load_frame(pair: tuple[socket.socket, socket.socket]) -> None:
    """A load message; a GPU of -1 is none."""
    ours, theirs = pair
    for gpu, more in ((-1, {}), (2, {"gpu": 2})):
        theirs.sendall(
            b"L" + pack_text("m") + pack_text("/m") + number(4) + pack_text("h.py") + number(gpu)
        )
        theirs.sendall(pack_text("json") + b"\1")
        command, message = retrieve_msg(ours)
        assert command == b"L"
        assert message == {
            "modelName": b"m",
            "modelPath": b"/m",
            "batchSize": 4,
            "handler": b"h.py",
            "envelope": b"json",
            "limitMaxImagePixels": True,
            **more,
        }


def test_inference_frame(pair: tuple[socket.socket, socket.socket]) -> None:
    """Values are decoded by their content type; what is not what it says stays bytes."""
    ours, theirs = pair
    frame = inference(
        request("r1", b'{"a": 1}', "application/json"),
        request("r2", "\u00e9".encode(), "text/plain"),
        request("r3", b"{", "application/json"),
    )
    theirs.sendall(frame)
    command, batch = retrieve_msg(ours)
    assert command == b"I"
    assert [one["parameters"][0]["value"] for one in batch] == [{"a": 1}, "\u00e9", b"{"]
    assert batch[0]["headers"] == [{"name": b"A", "value": b"1"}]
    theirs.sendall(b"X")
    with pytest.raises(ValueError, match="Invalid command"):
        retrieve_msg(ours)
    theirs.close()
    with pytest.raises(ConnectionError):
        retrieve_msg(ours)


def test_response_frame() -> None:
    """Every kind of result, with the statuses and headers of the context."""
    context = Context("m", "/m", None, 1, None, "0.12.0")
    context.request_processor = [RequestProcessor({}) for _ in range(4)]
    context.set_response_status(404, "gone", 1)
    context.set_response_content_type(2, "text/csv")
    ids = {index: f"r{index}" for index in range(4)}
    results = [b"a", "\u00e9", {"n": 1}, torch.zeros(1)]
    frame = create_predict_response(results, ids, "fine", 200, context)
    assert frame is not None
    code, message, parts = parse_response(frame)
    assert (code, message) == (200, "fine")
    assert [part.request_id for part in parts] == list(ids.values())
    assert [part.body for part in parts][:3] == [b"a", "\u00e9".encode(), b'{\n  "n": 1\n}']
    assert (parts[1].status, parts[1].phrase, parts[2].content_type) == (404, "gone", "text/csv")
    more = create_predict_response(results, ids, "", 200, context, True) or b""
    assert [part.headers["ts_stream_next"] for part in parse_response(more)[2]] == ["true"] * 4
    assert "ts_stream_next" not in context.get_response_headers(0)
    context.stopping_criteria = [lambda result: result == b"a"] * 4
    parts = parse_response(create_predict_response(results, ids, "", 200, context) or b"")[2]
    assert [part.headers["ts_stream_next"] for part in parts] == ["false"] + ["true"] * 3
    error = parse_response(create_predict_response([object()], {0: "r"}, "", 200) or b"")
    assert error[:2] == (503, "Unsupported model output data type.")
    assert error[2][0].body == b"error"
    assert parse_response(create_load_model_response(200, "ok")) == (200, "ok", [])
    for broken in (b"", frame[:20], number(200) + number(99)):
        with pytest.raises(ValueError, match="the frame ends"):
            parse_response(broken)


def test_service_predicts(tmp_path: Path) -> None:
    """A batch goes through the entry point; what goes wrong has TorchServe's codes and texts."""
    batch = [
        {
            "requestId": b"r1",
            "headers": [{"name": b"A", "value": b"1"}],
            "parameters": [{"name": "body", "value": "x", "contentType": "text/plain"}],
        }
    ]

    def told(result: Any) -> tuple[int, str, list[bytes]]:
        def entry(data: Any, context: Context) -> Any:
            if isinstance(result, Exception):
                raise result
            return result(data, context) if callable(result) else result

        code, message, parts = parse_response(service(entry, tmp_path).predict(batch) or b"")
        return code, message, [part.body for part in parts]

    def good(data: Any, context: Context) -> list[str]:
        return [f"{row['body']} {context.get_request_header(0, 'a')}" for row in data]

    assert told(good) == (200, "Prediction success", [b"x 1"])
    assert told(PredictionException("no", 418))[:2] == (418, "no")
    assert told(MemoryError())[:2] == (507, "Out of resources")
    assert told(RuntimeError("CUDA error"))[:2] == (507, "Out of resources")
    assert told(ValueError())[:2] == (503, "Prediction failed")
    assert told("text")[:2] == (503, "Invalid model predict output")
    assert told([])[:2] == (503, "number of batch response mismatched")
    with pytest.raises(ValueError, match="invalid inputs"):
        Service.retrieve_data_for_inference(None)


def test_service_reads_the_configuration(tmp_path: Path) -> None:
    """The manifest's configuration file is in the context."""
    (tmp_path / "c.yaml").write_text("handler: {a: 1}")
    made = service(print, tmp_path, {"model": {"configFile": "c.yaml"}})
    assert made.context.model_yaml_config == {"handler": {"a": 1}}


def test_async_service_answers_many_at_once(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    """A request that waits for another one's arrival is answered: they run side by side."""
    ours, theirs = pair
    arrived: list[str] = []
    both = asyncio.Event()

    async def handle(data: Any, context: Context) -> list[str]:
        arrived.append(str(context.get_request_id(0)))
        if len(arrived) == 2:
            both.set()
        await both.wait()
        return [f"{row['body']}" for row in data]

    made = service(handle, tmp_path)
    made.set_cl_socket(ours)
    ended: list[str | None] = []
    thread = threading.Thread(target=lambda: ended.append(AsyncService(made).run()))
    thread.start()
    theirs.sendall(inference(request("r1", b"a", "text/plain")))
    theirs.sendall(inference(request("r2", b"b", "text/plain")))
    size = len(create_predict_response(["a"], {0: "r1"}, "Prediction success", 200) or b"")
    frames = b""
    while len(frames) < 2 * size:
        frames += theirs.recv(2 * size)
    bodies = {
        part.request_id: part.body
        for half in (frames[:size], frames[size:])
        for part in parse_response(half)[2]
    }
    theirs.shutdown(socket.SHUT_RDWR)
    thread.join(30)
    assert bodies == {"r1": b"a", "r2": b"b"}
    assert ended == [None]


def test_a_handler_that_writes_frames_itself_streams(load: Load) -> None:
    """`context.cl_socket.sendall(create_predict_response(…))` sends a chunk, as under TorchServe."""
    served = load("""
        from ts.handler_utils.utils import create_predict_response
        def handle(data, context):
            if data is None:
                return
            ids = context.request_ids
            parts = [{"n": 1} for _ in data]
            context.cl_socket.sendall(create_predict_response(parts, ids, "", 200, context, True))
            return ["end"] * len(data)
    """)
    for chunks in served.run(b"", b""):
        assert [chunk.last for chunk in chunks] == [False, True]
        assert json.loads(chunks[0].body) == {"n": 1}
        assert "ts_stream_next" not in chunks[0].headers
    with pytest.raises(RuntimeError, match="no request is running"):
        served.runner.context.cl_socket.sendall(create_predict_response([b""], {0: "r"}, "", 200))
