"""Metrics of the machine (section 7.3)."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flambeau.testing.echo import write_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until
from tests.telemetry.metric_models import families

HOST = ("Level=Host",)
NAMES = {
    "CPUUtilization", "MemoryUsed", "MemoryAvailable", "MemoryUtilization",
    "DiskUsage", "DiskAvailable", "DiskUtilization",
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    store = tmp_path_factory.mktemp("store")
    write_model(store, "echo")
    with running_server(store, store / "cache", metric_time_interval=1) as running:
        wait_until(lambda: families(running).keys() >= NAMES)
        yield running


def test_right_after_the_start(server: RunningServer) -> None:
    """Percentages are percentages, memory is in MB and the disk of `/` in GB."""
    found = {name: series[HOST] for name, series in families(server).items() if name in NAMES}
    for name in ("CPUUtilization", "MemoryUtilization", "DiskUtilization"):
        assert 0 <= found[name] <= 100
    total = psutil.virtual_memory().total / 1024**2
    assert 0 < found["MemoryUsed"] < total
    assert 0 < found["MemoryAvailable"] <= total
    disk = psutil.disk_usage("/").total / 1024**3  # GB
    assert 0 < found["DiskUsage"] + found["DiskAvailable"] <= disk


def test_again_after_the_interval(server: RunningServer) -> None:
    """A CPU that is busy between two samples is seen busy, without a process for each sample."""
    memory: set[float] = set()

    def sampled_again() -> bool:
        ballast = bytearray(50_000_000)  # the machine may be all the same otherwise
        found = families(server)
        memory.add(found["MemoryUsed"][HOST])
        return len(ballast) > 0 and len(memory) >= 3 and found["CPUUtilization"][HOST] > 0

    wait_until(sampled_again)


def test_they_can_be_off(tmp_path: Path) -> None:
    """`disable_system_metrics=true`."""
    write_model(tmp_path / "store", "echo")
    with running_server(
        tmp_path / "store", tmp_path / "cache", disable_system_metrics=True, metric_time_interval=1
    ) as running:
        assert not NAMES & families(running).keys()


def test_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three metrics a device, as `nvidia-smi` tells them; no more devices than `number_of_gpu`.
    A device that cannot be read, or does not tell, is left out. (The command is a stand-in.)"""
    command = tmp_path / "nvidia-smi"
    command.write_text(
        "#!/bin/sh\necho '0, 0, 5, 512'\necho 'GPU 1 is lost'\n"
        "echo '2, 20, [N/A], 512'\necho '3, 30, 5, 512'\nexit 15\n"
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "store").mkdir()
    with running_server(tmp_path / "store", tmp_path / "cache", number_of_gpu=3) as running:
        wait_until(lambda: "GPUUtilization" in families(running))
        found = families(running)
    first, third = ((f"DeviceId={index}", *HOST) for index in (0, 2))
    assert found["GPUMemoryUtilization"] == {first: 5}
    assert found["GPUMemoryUsed"] == {first: 512, third: 512}
    assert found["GPUUtilization"] == {first: 0, third: 20}
