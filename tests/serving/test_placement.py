"""Where workers run (contract.md sections 4.4 and 4.5): what is settled before any is started."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from flambeau.config import ServerConfig
from flambeau.errors import ArchiveError
from flambeau.serving.host import Counters
from flambeau.serving.model_yaml import ModelYaml
from flambeau.serving.placement import Placement, place
from flambeau.supervisor.interpreter import Interpreter
from flambeau.testing.echo import predict, register, write_model
from flambeau.testing.server import running_server

ANY = ServerConfig()


def test_all_gpus_unless_the_yaml_or_the_server_says_less() -> None:
    """`number_of_gpu` is an upper bound; `deviceType: cpu` wins; `gpu` without a GPU is the CPU."""
    assert place(ModelYaml(), ANY, 2).gpus == (0, 1)
    assert place(ModelYaml(), ServerConfig(number_of_gpu=1), 2).gpus == (0,)
    assert place(ModelYaml(), ServerConfig(number_of_gpu=8), 2).gpus == (0, 1)
    assert place(ModelYaml(), ServerConfig(number_of_gpu=0), 2).gpus == ()
    assert place(ModelYaml(device_type="cpu"), ANY, 2).gpus == ()
    assert place(ModelYaml(device_type="gpu"), ANY, 0).gpus == ()


def test_device_ids_choose_and_one_bad_one_ignores_the_list(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With a warning that names them; describe shows only a list that counts."""
    assert place(ModelYaml(device_ids=[2, 0]), ANY, 4).gpus == (2, 0)
    with caplog.at_level(logging.WARNING, "flambeau.serving"):
        ignored = place(ModelYaml(device_ids=[0, 4]), ANY, 4, "bert_1.0")
    assert (ignored.gpus, ignored.device_ids) == ((0, 1, 2, 3), None)
    assert (
        "Model bert_1.0: deviceIds [0, 4] are ignored: this machine has 4 usable GPUs"
        in caplog.text
    )


def test_workers_take_turns_at_the_gpus_over_all_models() -> None:
    """From GPU 0 on, which TorchServe skips; with `deviceIds` a model counts for itself."""
    counters = Counters(9000, 29500)
    one, two = (counters.for_model(Placement(gpus=(0, 1))) for _ in range(2))
    assert [next(numbers.gpu_turn) for numbers in (one, two, one)] == [0, 1, 2]
    chosen = counters.for_model(Placement(gpus=(3,), device_ids=[3]))
    assert [next(chosen.gpu_turn) for _ in range(2)] == [0, 1]
    assert [numbers.next_worker() for numbers in (one, two, chosen)] == [9000, 9001, 9002]


def test_torchrun_sets_the_level() -> None:
    """`nproc-per-node` beats `parallelLevel`; neither counts without `parallelType`."""
    torchrun: dict[str, object] = {"nproc-per-node": 4, "OMP_NUMBER_THREADS": 2}
    yaml = ModelYaml(parallel_type="pp", parallel_level=2, torchrun=torchrun)
    ranks = place(yaml, ANY, 0).ranks
    assert ranks is not None
    assert (ranks.count, ranks.threads, ranks.predict_on_all) == (4, 2, False)
    plain = place(ModelYaml(parallel_level=2, torchrun=torchrun), ANY, 0)
    assert (plain.parallel_level, plain.ranks) == (0, None)
    custom = place(ModelYaml(parallel_type="custom", parallel_level=2), ANY, 2)
    assert (custom.parallel_level, custom.ranks, custom.worker_limit) == (2, None, 1)


def test_a_wrong_torchrun_value_warns_and_is_1(caplog: pytest.LogCaptureFixture) -> None:
    """As in TorchServe; keys that have no use on one machine are told, unknown ones warned of."""
    torchrun: dict[str, object] = {"nproc-per-node": "four", "rdzv-backend": "c10d", "npoc": 1}
    with caplog.at_level(logging.INFO, "flambeau.serving"):
        placed = place(ModelYaml(parallel_type="tp", torchrun=torchrun), ANY, 0)
    assert placed.parallel_level == 1
    assert "nproc-per-node is 'four', expected a whole number from 1: 1 is used" in caplog.text
    assert "torchrun.rdzv-backend has no effect" in caplog.text
    assert "torchrun.npoc is ignored" in caplog.text


def test_more_gpus_than_there_are_is_an_error() -> None:
    """It says how many there are and the ways out."""
    with pytest.raises(ArchiveError, match=r"parallelLevel is 3, but .* only 2 GPUs"):
        place(ModelYaml(parallel_type="tp", parallel_level=3), ANY, 2)


def test_cpp_models_are_refused(tmp_path: Path) -> None:
    """`runtime` LSP, in the manifest or at registration: the text says what to do."""
    store = tmp_path / "store"
    file = write_model(store, "cpp") / "MAR-INF" / "MANIFEST.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"runtime": "LSP"}))
    write_model(store, "echo")
    with running_server(store, tmp_path / "cache") as server:
        for answer in (register(server, "cpp"), register(server, "echo", runtime="LSP")):
            assert answer.status_code == 400
            assert "LSP" in answer.json()["message"]
        assert register(server, "echo", runtime="python3").status_code == 200


ENVIRONMENT = """
import os

def handle(data, context):
    return [dict(os.environ)] * len(data or [])
"""


def test_what_workers_see_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but secrets and what `blacklist_env_vars` matches in full; TorchServe's variables (2.6, 9.2)."""
    monkeypatch.setenv("SECRET_TOKEN", "x")
    monkeypatch.setenv("NOT_A_SECRET_TOKEN", "y")
    monkeypatch.setenv("OTHER_TOKEN", "z")
    monkeypatch.setenv("PLAIN", "p")
    write_model(tmp_path / "store", "tell", ENVIRONMENT)
    settings: dict[str, Any] = {
        "blacklist_env_vars": "SECRET.*|AWS_.*",
        "pass_env_vars": ("NOT_A_.*", "SECRET_TOKEN"),
        "ipex_enable": True,
    }
    with running_server(tmp_path / "store", tmp_path / "cache", **settings) as server:
        assert register(server, "tell").status_code == 200
        seen = predict(server, "tell").json()
    assert "SECRET_TOKEN" not in seen
    assert seen["NOT_A_SECRET_TOKEN"] == "y"
    assert "OTHER_TOKEN" not in seen
    assert seen["PLAIN"] == "p"
    expected = {
        "TS_DECODE_INPUT_REQUEST": "true",
        "TS_IPEX_ENABLE": "true",
        "TS_IPEX_GPU_ENABLE": "false",
    }
    assert expected.items() <= seen.items()


def test_a_worker_sees_its_own_devices_of_those_that_the_server_sees() -> None:
    """Indices count within the server's own `CUDA_VISIBLE_DEVICES`, by whatever names it lists."""
    server_sees = {"CUDA_VISIBLE_DEVICES": "4,5,GPU-abc"}
    seen = Interpreter("python", server_sees).that_sees((1, 2)).environment
    assert seen["CUDA_VISIBLE_DEVICES"] == "5,GPU-abc"
    assert Interpreter("python", {}).that_sees((2, 3)).environment == {
        "CUDA_VISIBLE_DEVICES": "2,3"
    }
