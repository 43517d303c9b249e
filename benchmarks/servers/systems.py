"""The systems that are compared: one entry each says how it is started and asked."""

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks import models
from benchmarks.servers.environments import FOLDER, UnavailableError

APPS = Path(__file__).parent / "apps"


class Place(NamedTuple):
    """Where one server runs: its interpreter, ports (the first answers) and a folder of its own."""

    python: Path
    shape: str
    ports: list[int]
    folder: Path

    @property
    def model(self) -> Path:
        """The model's folder, as `save_pretrained` writes it."""
        return models.model(self.shape)

    def tool(self, name: str) -> str:
        """A command of the environment."""
        return str(self.python.with_name(name))


class System(NamedTuple):
    """How one system is started and asked; `prepare` is done before the clock starts.

    `handler` is how Flambeau's archive is packed. `label` reads the answer's label. `settings` is
    what the report says about its configuration.
    """

    title: str
    environment: str
    settings: str
    command: Callable[[Place], list[str]]
    path: str
    body: str
    label: Callable[[bytes], str]
    prepare: Callable[[Place], None] = lambda _place: None
    handler: Mapping[str, object] = {}


def flambeau(title: str, **handler: object) -> System:
    """Flambeau with an archive packed with these settings (flags of `flambeau pack`).

    Without any it serves the model's folder, with no setting at all.
    """

    def prepare(place: Place) -> None:
        if handler:
            _pack(place, handler)

    def command(place: Place) -> list[str]:
        served = place.folder / "bench.mar" if handler else place.model
        words = [place.tool("flambeau"), "serve", str(served), "--name", "bench", "--quiet"]
        for flag, port in zip(("", "management-", "metrics-"), place.ports, strict=False):
            words += [f"--{flag}port", str(port)]
        return [*words, "--enable-model-api"]

    settings = ", ".join(f"{key}: {value}" for key, value in handler.items()) or "no setting"
    path = "/predictions/bench"
    return System(title, "", settings, command, path, "{text}", _best_label, prepare, handler)


def _pack(place: Place, handler: Mapping[str, object]) -> None:
    """Each time anew, since packing may export, and exporting may have changed."""
    words = [place.tool("flambeau"), "pack", str(place.model), "--name", "bench"]
    words += ["--export-path", str(place.folder), "--archive-format", "zip-store"]
    for key, value in handler.items():
        words += [f"--{key.replace('_', '-')}", str(value)]
    _run(place, words)


def _best_label(answer: bytes) -> str:
    """Of labels with scores, or the label alone."""
    try:
        scored = json.loads(answer)
    except ValueError:
        return answer.decode()
    return str(max(scored, key=lambda each: each["score"])["label"])


def _pack_for_torchserve(place: Place) -> None:
    """The model and the handler, packed by TorchServe's own archiver, once."""
    file = _torchserve_archive(place)
    handler = APPS / "torchserve_handler.py"
    if not file.exists() or file.stat().st_mtime < handler.stat().st_mtime:
        file.parent.mkdir(parents=True, exist_ok=True)
        config = file.with_suffix(".yaml")
        settings = {"minWorkers": 1, "maxWorkers": 1, "batchSize": 8, "maxBatchDelay": 50}
        config.write_text(yaml.safe_dump(settings | {"responseTimeout": 120}))
        extra = ("config.json", "tokenizer.json", "tokenizer_config.json", "index_to_name.json")
        files = ",".join(str(place.model / name) for name in (*extra, "vocab.txt"))
        words = [place.tool("torch-model-archiver"), "--force", "--model-name", file.stem]
        words += ["--version", "1.0", "--serialized-file", str(place.model / "model.safetensors")]
        words += ["--handler", str(handler), "--config-file", str(config), "--extra-files", files]
        _run(place, [*words, "--export-path", str(file.parent)])


def _torchserve_archive(place: Place) -> Path:
    return FOLDER / "archives" / f"torchserve-{place.shape}.mar"


def _run(place: Place, words: list[str]) -> None:
    done = subprocess.run(words, cwd=place.folder, capture_output=True, text=True, timeout=600)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UnavailableError(f"{Path(words[0]).name} failed: {last}")


def _torchserve(place: Place) -> list[str]:
    inference, management, metrics, grpc_inference, grpc_management = place.ports
    config = place.folder / "settings.properties"
    config.write_text(
        f"inference_address=http://127.0.0.1:{inference}\n"
        f"management_address=http://127.0.0.1:{management}\n"
        f"metrics_address=http://127.0.0.1:{metrics}\n"
        f"grpc_inference_port={grpc_inference}\ngrpc_management_port={grpc_management}\n"
        "default_workers_per_model=1\njob_queue_size=1000\n"
    )
    file = _torchserve_archive(place)
    words = [place.tool("torchserve"), "--start", "--foreground", "--ncs", "--disable-token-auth"]
    words += ["--ts-config", str(config), "--model-store", str(file.parent)]
    return [*words, "--models", f"bench={file.name}"]


def _mlserver(place: Place) -> list[str]:
    names = ("http_port", "grpc_port", "metrics_port")
    settings: dict[str, Any] = dict(zip(names, place.ports, strict=False))
    settings |= {"host": "127.0.0.1", "debug": False}
    (place.folder / "settings.json").write_text(json.dumps(settings))
    model: dict[str, Any] = {"name": "bench", "implementation": "mlserver_runtime.Runtime"}
    model |= {"max_batch_size": 8, "max_batch_time": 0.05}
    (place.folder / "model-settings.json").write_text(json.dumps(model))
    return [place.tool("mlserver"), "start", str(place.folder)]


def _infinity(place: Place) -> list[str]:
    words = [place.tool("infinity_emb"), "v2", "--model-id", str(place.model), "--device", "cpu"]
    words += ["--engine", "torch", "--dtype", "float32", "--served-model-name", "bench"]
    words += ["--no-bettertransformer", "--no-model-warmup", "--log-level", "warning"]
    return [*words, "--host", "127.0.0.1", "--port", str(place.ports[0])]


def _script(name: str) -> Callable[[Place], list[str]]:
    return lambda place: [str(place.python), str(APPS / name), str(place.ports[0])]


def _fastapi(place: Place) -> list[str]:
    words = [str(place.python), "-m", "uvicorn", "fastapi_app:app", "--app-dir", str(APPS)]
    return [*words, "--host", "127.0.0.1", "--port", str(place.ports[0]), "--no-access-log"]


def _label_field(answer: bytes) -> str:
    return str(json.loads(answer)["label"])


_TEXT_BODY = '{"text": "{text}"}'
_V2_BODY = '{"inputs": [{"name": "t", "shape": [1], "datatype": "BYTES", "data": ["{text}"]}]}'

SYSTEMS: Mapping[str, System] = {
    "flambeau": flambeau("Flambeau"),
    "flambeau-mar": flambeau("Flambeau (.mar)", output="legacy"),
    "flambeau-int8": flambeau("Flambeau int8", precision="int8"),
    "flambeau-bf16": flambeau("Flambeau bf16", precision="bf16"),
    "flambeau-onnx": flambeau("Flambeau ONNX", engine="onnx"),
    "flambeau-openvino": flambeau("Flambeau OpenVINO", engine="openvino"),
    "flambeau-openvino-int8": flambeau("Flambeau OpenVINO int8", engine="openvino", precision="int8"),
    "torchserve": System(
        "TorchServe 0.12", "torchserve", "batchSize 8, maxBatchDelay 50, padded to 150 tokens",
        _torchserve, "/predictions/bench", "{text}", bytes.decode, _pack_for_torchserve,
    ),
    "fastapi": System(
        "FastAPI by hand", "fastapi", "one text a forward pass, thread pool",
        _fastapi, "/predict", _TEXT_BODY, _label_field,
    ),
    "litserve": System(
        "LitServe", "litserve", "max_batch_size 8, batch_timeout 0.05",
        _script("litserve_app.py"), "/predict", _TEXT_BODY, _label_field,
    ),
    "ray": System(
        "Ray Serve", "ray", "max_batch_size 8, batch_wait_timeout_s 0.05",
        _script("ray_app.py"), "/", _TEXT_BODY, _label_field,
    ),
    "mlserver": System(
        "MLServer", "mlserver", "max_batch_size 8, max_batch_time 0.05",
        _mlserver, "/v2/models/bench/infer", _V2_BODY,
        lambda answer: str(json.loads(answer)["outputs"][0]["data"][0]),
    ),
    "infinity": System(
        "Infinity", "infinity", "defaults, float32, without BetterTransformer",
        _infinity, "/classify", '{"model": "bench", "input": ["{text}"]}',
        lambda answer: _best_label(json.dumps(json.loads(answer)["data"][0]).encode()),
    ),
}  # fmt: skip
"""What can be named with `--systems`: another system is another entry."""


def environment(system: System, place: Place) -> dict[str, str]:
    """The variables of a server's process: nothing is fetched, nothing is reported home."""
    return os.environ | {
        "PATH": f"{place.python.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(APPS) if system.environment else "",
        "BENCH_MODEL": str(place.model),
        "FLAMBEAU_CACHE": str(place.folder / "cache"),
        "TMPDIR": str(place.folder),
        "LOG_LOCATION": str(place.folder / "logs"),
        "METRICS_LOCATION": str(place.folder / "logs"),
        "HF_HUB_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "DO_NOT_TRACK": "1",
        "INFINITY_ANONYMOUS_USAGE_STATS": "0",
    }
