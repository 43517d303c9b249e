"""The model store of the comparison: one probe handler in several archives, and broken archives."""

import json
import zipfile
from pathlib import Path

PROBE = """
import os
import torch
from ts.context import Context
from ts.torch_handler.base_handler import BaseHandler
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.utils.util import PredictionException


def show(value):
    if isinstance(value, (bytes, bytearray)):
        return [type(value).__name__, bytes(value).decode("latin-1")]
    return [type(value).__name__, value]


RESULTS = {
    "dict": {"a": 1, "b": [1, 2]}, "list": [1, "x", None], "str": "plain \\u00e9", "empty": "",
    "bytes": b"\\x00\\x01raw", "bytearray": bytearray(b"raw too"), "int": 7, "float": 0.1,
    "bool": True, "none": None, "nan": float("nan"), "tuple": (1, 2), "nested": {"x": {"y": [{}]}},
    "unicode": {"k": "\\u4e2d\\U0001f525"}, "set": {1, 2}, "object": object(),
}


class Probe(BaseHandler):
    def initialize(self, context):
        self.initialized = True

    def describe_handle(self):
        return {"about": "a probe"}

    def handle(self, data, context):
        headers = context.get_all_request_header(0)
        if headers.get("describe") == "True":
            return [self.describe_handle()]
        do = headers.get("x-do", "show")
        act = getattr(self, "do_" + do.replace("-", "_"))
        return act(data, context, headers)

    def do_show(self, data, context, headers):
        return [{"row": {key: show(row[key]) for key in sorted(row)}} for row in data]

    def do_headers(self, data, context, headers):
        wanted = ("explain", "url_path", "describe", "x-one", "X-Two", "body", "data")
        return [{name: headers.get(name) for name in wanted if name in headers}]

    def do_result(self, data, context, headers):
        return [RESULTS[headers["x-result"]]]

    def do_tensor(self, data, context, headers):
        return [torch.zeros(2)]

    def do_whole(self, data, context, headers):
        return {"dict": {"a": 1}, "str": "text", "none": None, "tuple": (1,), "long": [1, 2],
                "short": [], "tensor": torch.zeros(1)}[headers["x-result"]]

    def do_raise(self, data, context, headers):
        kind = {"value": ValueError("secret"), "memory": MemoryError("no room"),
                "cuda": RuntimeError("CUDA error: something"), "key": KeyError("k")}
        raise kind[headers["x-result"]]

    def do_predict_error(self, data, context, headers):
        raise PredictionException("not today", int(headers["x-code"]))

    def do_predict_error_plain(self, data, context, headers):
        raise PredictionException("not today")

    def do_status(self, data, context, headers):
        context.set_response_status(int(headers["x-code"]), headers.get("x-phrase", ""), 0)
        return ["status"]

    def do_status_all(self, data, context, headers):
        context.set_all_response_status(int(headers["x-code"]), "")
        return [{"status": "all"}]

    def do_own_headers(self, data, context, headers):
        context.set_response_header(0, "X-Own", "yes")
        context.set_response_content_type(0, "text/x-own")
        return ["own"]

    def do_content_type(self, data, context, headers):
        context.set_response_header(0, "content-type", headers["x-type"])
        return [{"typed": True}]

    def do_stream(self, data, context, headers):
        for part in range(3):
            send_intermediate_predict_response(["part %d " % part], context.request_ids, "", 200, context)
        return ["end"]

    def do_stream_dicts(self, data, context, headers):
        send_intermediate_predict_response([{"n": 1}], context.request_ids, "", 200, context)
        return [{"n": 2}]

    def do_exit(self, data, context, headers):
        os._exit(1)

    def do_metric(self, data, context, headers):
        context.metrics.add_counter("ProbeCount", 2, 0)
        context.metrics.add_time("ProbeTime", 5, 0)
        return ["counted"]
"""
FUNCTION = """
def entry(data, context):
    if data is None:
        return None
    return [sorted(row) for row in data]
"""
FAILING = """
from ts.torch_handler.base_handler import BaseHandler
class Failing(BaseHandler):
    def initialize(self, context):
        raise RuntimeError("never ready")
"""
STARTUP = ("function", "probe", "versions")
"""What `--models all` finds; the rest lies in `later/` until it is copied in."""


def write_store(store: Path) -> None:
    """Write the archives that both servers start with, and those that are registered later."""
    store.mkdir(parents=True)
    write(store / "probe.mar", "probe", PROBE, "probe.py")
    write(store / "function.mar", "function", FUNCTION, "function.py:entry")
    write(store / "versions.mar", "versions", FUNCTION, "function.py:entry")


def write_later(store: Path) -> None:
    """Archives for registrations: written once the servers run, so that `all` has not seen them."""
    write(store / "second.mar", "versions", FUNCTION, "function.py:entry", version="2.0")
    write(store / "other.mar", "other", FUNCTION, "function.py:entry")
    write(store / "failing.mar", "failing", FAILING, "failing.py")
    settings = {"minWorkers": 1, "maxWorkers": 2, "batchSize": 3, "maxBatchDelay": 17}
    write(store / "configured.mar", "configured", FUNCTION, "function.py:entry", settings=settings)
    (store / "garbage.mar").write_bytes(b"this is no archive")
    for name, manifest in {
        "nameless": {"model": {"handler": "function.py:entry"}},
        "modelless": {"createdOn": "01/01/2020 00:00:00"},
        "runtimeless": {
            "model": {"modelName": "runtimeless", "handler": "function.py:entry"},
            "runtime": "cobol",
        },
    }.items():
        with zipfile.ZipFile(store / f"{name}.mar", "w") as archive:
            archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
            archive.writestr("function.py", FUNCTION)
    with zipfile.ZipFile(store / "scrambled.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", "{not json")


def write(
    file: Path,
    name: str,
    source: str,
    handler: str,
    version: str = "1.0",
    settings: dict[str, int] | None = None,
) -> None:
    """Write one archive with one handler file."""
    model = {"modelName": name, "modelVersion": version, "handler": handler}
    with zipfile.ZipFile(file, "w") as archive:
        if settings:
            model["configFile"] = "model-config.yaml"
            archive.writestr("model-config.yaml", json.dumps(settings))
        manifest = {"createdOn": "01/01/2024 00:00:00", "runtime": "python", "model": model}
        manifest["archiverVersion"] = "0.12.0"
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        archive.writestr(handler.partition(":")[0], source)
