"""Keys of `config.properties` that reach handlers, through a file and a real server (section 3.3)."""

import json
from pathlib import Path

import httpx
import msgspec

from flambeau.config import load_config
from flambeau.testing.echo import predict, register, write_model
from flambeau.testing.server import running_server

HANDLER = """
def handle(data, context):
    limit = context.system_properties.get("limit_max_image_pixels")
    return [f"{limit} {type(next(iter(row.values()))).__name__}" for row in data or []]
"""


def test_keys_of_the_file_reach_handlers(tmp_path: Path) -> None:
    """`default_service_handler`, `decode_input_request`, `limit_max_image_pixels`, job_queue_size,
    `default_workers_per_model` as the number of `initial_workers`.
    """
    store = tmp_path / "store"
    file = write_model(store, "bare", HANDLER) / "MAR-INF" / "MANIFEST.json"
    manifest = json.loads(file.read_text())
    del manifest["model"]["handler"]
    file.write_text(json.dumps(manifest))
    properties = tmp_path / "config.properties"
    properties.write_text(
        "default_service_handler=handler.py:handle\ndecode_input_request=false\n"
        "limit_max_image_pixels=false\njob_queue_size=3\ndefault_workers_per_model=2\n"
    )
    config = load_config(properties, {}, {})
    keys = [line.partition("=")[0] for line in properties.read_text().split()]
    settings = {key: msgspec.structs.asdict(config)[key] for key in keys}
    with running_server(store, tmp_path / "cache", **settings) as server:
        url = f"{server.management}/models"
        answer = httpx.post(url, params={"url": "bare", "synchronous": "true"}, timeout=60)
        assert answer.status_code == 200
        body = predict(server, "bare", '{"a": 1}', content_type="application/json").text
        shown = httpx.get(f"{url}/bare").json()[0]
    assert body in ("False bytes", "False bytearray")
    assert len(shown["workers"]) == 2
    assert shown["jobQueueStatus"]["remainingCapacity"] == 3


def test_number_of_gpu_is_an_upper_bound(tmp_path: Path) -> None:
    """More than there are changes nothing: without a GPU a worker is on the CPU."""
    source = "def handle(data, context):\n"
    source += "    return [str(context.system_properties['gpu_id'])] * len(data or [])\n"
    write_model(tmp_path / "store", "device", source)
    with running_server(tmp_path / "store", tmp_path / "cache", number_of_gpu=4) as server:
        assert register(server, "device").status_code == 200
        assert predict(server, "device").text == "None"
