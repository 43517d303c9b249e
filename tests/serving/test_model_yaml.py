"""The server's keys of `model-config.yaml` (contract.md sections 4.1 and 4.3)."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from flambeau.serving.model_yaml import ModelYaml, parse_model_yaml
from flambeau.testing.echo import ECHO, describe, predict, register, write_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until


@pytest.mark.parametrize(
    ("document", "expected", "warnings"),
    [
        ({"minWorkers": 2, "maxWorkers": 3}, ModelYaml(min_workers=2, max_workers=3), []),
        ({"batchSize": 0, "jobQueueSize": -5}, ModelYaml(batch_size=1, job_queue_size=0), []),
        ({"maxRetryTimeoutInSec": -1}, ModelYaml(max_retry_timeout_in_sec=0), []),
        ({"maxNumSequence": 0}, ModelYaml(max_num_sequence=1), []),
        ({"deviceType": "CPU"}, ModelYaml(device_type="cpu"), []),
        ({"deviceIds": [0, 1]}, ModelYaml(device_ids=[0, 1]), []),
        ({"handler": {"profile": True}, "pt2": "inductor", "mine": 1}, ModelYaml(), []),
        ({"batchSize": "4"}, ModelYaml(), ["batchSize is ignored: it is '4', expected a whole"]),
        ({"batchSize": 4.0}, ModelYaml(), ["batchSize is ignored: it is 4.0, expected a whole"]),
        ({"batchSize": True}, ModelYaml(), ["batchSize is ignored: it is True"]),
        ({"batchSize": 2**31}, ModelYaml(), ["batchSize is ignored: it is 2147483648"]),
        ({"maxBatchDelay": -1}, ModelYaml(), ["maxBatchDelay is ignored: it is -1, expected at"]),
        ({"responseTimeout": 0}, ModelYaml(), ["responseTimeout is ignored: it is 0, expected at"]),
        ({"useJobTicket": 1}, ModelYaml(), ["useJobTicket is ignored: it is 1, expected true or"]),
        ({"deviceIds": [0, "1"]}, ModelYaml(), ["deviceIds is ignored"]),
        ({"deviceType": "tpu"}, ModelYaml(), ["it is 'tpu', expected cpu or gpu"]),
        ({"torchrun": 3}, ModelYaml(), ["torchrun is ignored: it is 3, expected a mapping"]),
        ({"minWorkers": 2}, ModelYaml(min_workers=2), ["1 <= minWorkers <= maxWorkers"]),
        (
            {"batch_size": 4},
            ModelYaml(),
            ["batch_size is not a key of the server; did you mean bat"],
        ),
        ({"responsTimeout": 4}, ModelYaml(), ["did you mean responseTimeout?"]),
        (
            {"sequenceBatching": True},
            ModelYaml(sequence_batching=True),
            ["sequenceBatching needs sequenceMaxIdleMSec"],
        ),
    ],
)
def test_keys(
    document: dict[str, object],
    expected: ModelYaml,
    warnings: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A wrong value is ignored with one warning that names key, value and what was expected."""
    with caplog.at_level(logging.WARNING):
        assert parse_model_yaml(document, "model-config.yaml") == expected
    assert len(caplog.messages) == len(warnings)
    for told, wanted in zip(caplog.messages, warnings, strict=True):
        assert wanted in told
        assert told.startswith("model-config.yaml: ")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server whose own time-outs are 40 and 50 seconds, and a model without any yaml."""
    store = tmp_path_factory.mktemp("store")
    write_model(store, "plain")
    config = {"default_response_timeout": 40, "default_startup_timeout": 50, "job_queue_size": 7}
    with running_server(store, tmp_path_factory.mktemp("cache"), **config) as running:
        yield running


def add(server: RunningServer, name: str, yaml: Mapping[str, object], **parameters: object) -> None:
    store = server.server.config.model_store
    assert store is not None
    write_model(Path(store), name, ECHO, "1.0", **yaml)
    assert register(server, name, **parameters).status_code == 200


def test_every_key_shows_in_describe(server: RunningServer) -> None:
    """Under its own name; what the yaml does not say has the default."""
    yaml: dict[str, object] = {
        "minWorkers": 1,
        "maxWorkers": 2,
        "batchSize": 3,
        "maxBatchDelay": 20,
        "responseTimeout": 30,
        "startupTimeout": 31,
        "deviceType": "cpu",
        "maxRetryTimeoutInSec": 9,
        "clientTimeoutInMills": 8000,
        "jobQueueSize": 5,
        "useJobTicket": True,
        "continuousBatching": True,
        "sequenceBatching": True,
        "sequenceMaxIdleMSec": 7000,
        "sequenceTimeoutMSec": 6000,
        "maxNumSequence": 4,
        "maxSequenceJobQueueSize": 2,
    }
    add(server, "full", yaml)
    shown = describe(server, "full")
    same = {key: shown[key] for key in yaml if key not in ("jobQueueSize", "sequenceBatching")}
    assert same == {key: yaml[key] for key in same}
    assert shown["stateful"] is True
    assert register(server, "plain").status_code == 200
    plain = describe(server, "plain")
    assert (plain["maxRetryTimeoutInSec"], plain["clientTimeoutInMills"]) == (300, 0)
    assert plain["jobQueueStatus"] == {"remainingCapacity": 7, "pendingRequests": 0}
    switches = ("continuousBatching", "useJobTicket", "useVenv", "stateful")
    assert [plain[key] for key in switches] == [False] * 4
    numbers = ("sequenceMaxIdleMSec", "maxNumSequence", "maxSequenceJobQueueSize", "parallelLevel")
    assert [plain[key] for key in numbers] == [0] * 4


def test_precedence(server: RunningServer) -> None:
    """Only what the yaml really says beats parameters and the server's defaults (section 4.3)."""
    add(
        server, "some", {"batchSize": 2}, response_timeout=77, startup_timeout=55, initial_workers=2
    )
    shown = describe(server, "some")
    assert (shown["responseTimeout"], shown["startupTimeout"]) == (77, 55)
    assert (shown["minWorkers"], shown["batchSize"], shown["maxBatchDelay"]) == (2, 2, 100)
    timeouts = {"responseTimeout": 3, "minWorkers": 1, "maxWorkers": 1, "batchSize": 2}
    add(server, "more", timeouts, response_timeout=77, initial_workers=2, batch_size=6)
    shown = describe(server, "more")
    assert (shown["responseTimeout"], shown["startupTimeout"]) == (3, 50)
    assert (shown["minWorkers"], shown["batchSize"]) == (1, 6)
    add(server, "none", {"jobQueueSize": 3})
    shown = describe(server, "none")
    assert (shown["responseTimeout"], shown["startupTimeout"]) == (40, 50)
    assert shown["jobQueueStatus"] == {"remainingCapacity": 3, "pendingRequests": 0}


def test_workers_at_start_up(tmp_path: Path) -> None:
    """Yaml, then `models`, then default_workers_per_model; without all of them one on the CPU."""
    store = tmp_path / "store"
    for name in ("plain", "preset"):
        write_model(store, name)
    write_model(store, "said", minWorkers=1, maxWorkers=1)
    both = {"1.0": {"minWorkers": 3, "maxWorkers": 3}}
    presets = {"preset": both, "said": both}
    names = ("plain", "preset", "said")
    for default, wanted in ((2, [2, 3, 1]), (0, [1, 3, 1])):
        with running_server(
            store,
            tmp_path / "cache",
            load_models=names,
            models=presets,
            default_workers_per_model=default,
        ) as server:
            wait_until(lambda server=server: predict(server, "said").status_code == 200)  # type: ignore[misc]
            assert [describe(server, name)["minWorkers"] for name in names] == wanted


def test_a_wrong_key_does_not_stop_the_model(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It is served with the defaults; the warning says in which model of a store the key is."""
    with caplog.at_level(logging.WARNING, "flambeau.serving"):
        add(server, "wrong", {"batchSize": "8", "responseTimeout": None, "maxWorkes": 3})
    assert "Model wrong_1.0, model-config.yaml: batchSize is ignored: it is '8'" in caplog.text
    assert predict(server, "wrong").status_code == 200
    assert describe(server, "wrong")["batchSize"] == 1
