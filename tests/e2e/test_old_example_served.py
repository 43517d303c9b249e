"""The old example to its end: packed by its commands, served by `torchserve`, asked by curl."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flambeau.cli.torch_model_archiver import main as torch_model_archiver
from flambeau.testing.commands import run_command
from flambeau.testing.echo import free_ports
from flambeau.testing.waiting import wait_until
from tests.examples.test_old_example import (
    MODES,
    Script,
    command,
    download,
    folder,
    write_settings,
)

__all__ = ["download", "folder"]  # fixtures

SAVE_MODES = ("pretrained", "torchscript")
TORCHSERVE = str(Path(sys.executable).with_name("torchserve"))


def curl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["curl", "-sS", "--max-time", "60", *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated:DeprecationWarning")
def test_every_task_and_save_mode_answers_curl(
    folder: Path, download: Script, tmp_path: Path
) -> None:
    """Eight archives in one store; `torchserve --start`, the example's curl line, `--stop`."""
    store = folder / "model_store"
    store.mkdir()
    names = {}
    for mode, (_, _, archive, artifacts) in MODES.items():
        for save_mode in SAVE_MODES:
            write_settings(folder, "model-config.yaml", mode, save_mode)
            assert download() == 0
            assert torch_model_archiver(command(archive, save_mode, "model-config.yaml")) == 0
            name = f"{mode}_{save_mode}"
            Path(f"{archive}.mar").rename(store / f"{name}.mar")
            shutil.rmtree("Transformer_model")
            names[name] = artifacts
    inference, management, metrics = free_ports(3)
    (folder / "config.properties").write_text(
        f"inference_address=http://127.0.0.1:{inference}\n"
        f"management_address=http://127.0.0.1:{management}\n"
        f"metrics_address=http://127.0.0.1:{metrics}\n"
    )
    (tmp_path / "tmp").mkdir()
    environment = os.environ | {
        "TMPDIR": str(tmp_path / "tmp"),
        "FLAMBEAU_CACHE": str(tmp_path / "cache"),
    }
    models = [f"{name}={name}.mar" for name in names]
    start = [TORCHSERVE, "--start", "--model-store", "model_store", "--models", *models]
    start += ["--ncs", "--disable-token-auth", "--enable-model-api"]
    started = run_command(start, Path.cwd(), environment)
    try:
        assert started.returncode == 0, started.stdout
        assert "Model server started." in started.stdout
        for name, artifacts in names.items():
            sample = folder / artifacts / "sample_text_captum_input.txt"
            url = f"http://127.0.0.1:{inference}/predictions/{name}"
            wait_until(lambda url=url: "Model not found" not in curl(url).stdout)  # type: ignore[misc]
            answer = curl("-X", "POST", url, "-T", str(sample), "-w", "\n%{http_code}")
            body, _, status = answer.stdout.rpartition("\n")
            assert status == "200", (name, body)
            if name.startswith("sequence"):
                assert body in ("Accepted", "Not Accepted")
            elif name.startswith("token"):
                assert all(len(pair) == 2 for pair in json.loads(body))
            else:
                assert body.strip()
    finally:
        stopped = subprocess.run(
            [TORCHSERVE, "--stop"], env=environment, capture_output=True, text=True, check=False
        )
    assert stopped.stdout == "TorchServe has stopped.\n"
    assert curl(f"http://127.0.0.1:{inference}/ping").returncode != 0
    assert (folder / "logs" / "model_log.log").stat().st_size > 0
