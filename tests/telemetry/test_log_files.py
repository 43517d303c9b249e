"""The five log files of a server that the command started (section 2.7)."""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx

from flambeau.testing.echo import free_ports, write_model
from flambeau.testing.waiting import wait_until

HANDLER = """
import logging, sys
log = logging.getLogger(__name__)

def handle(data, context):
    if data is None:
        print("printed while loading")
        return None
    print("printed")
    print("printed on stderr", file=sys.stderr)
    log.debug("below the level")
    for level in ("info", "warning", "error", "critical"):
        getattr(log, level)("logged at %s", level)
    return ["ok"] * len(data)
"""
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3}"
WORKER = r"W-\d+-talker_1\.0"


def test_a_server_s_files(tmp_path: Path) -> None:
    """All five files where the two variables say; each line once, at its own level, under the
    worker's name; nothing is lost at the stop. `--log-config` is ignored with one line."""
    write_model(tmp_path / "store", "talker", HANDLER)
    ports = free_ports(3)
    apis = dict(zip(("inference", "management", "metrics"), ports, strict=True))
    (tmp_path / "config.properties").write_text(
        "".join(f"{api}_address=http://127.0.0.1:{port}\n" for api, port in apis.items())
        + "preload=\ndefault_workers_per_model=1\n"
    )
    (tmp_path / "log4j2.xml").write_text("<Configuration/>")
    command = [sys.executable, "-m", "flambeau.cli.torchserve"]
    environment = os.environ | {
        "TMPDIR": str(tmp_path),
        "FLAMBEAU_CACHE": str(tmp_path / "cache"),
        "LOG_LOCATION": str(tmp_path / "my logs"),
        "METRICS_LOCATION": str(tmp_path / "my metrics"),
    }
    start = ["--start", "--ncs", "--model-store", "store", "--models", "talker"]
    start += ["--ts-config", "config.properties", "--log-config", "log4j2.xml"]
    start += ["--disable-token-auth"]

    def run(*arguments: str) -> None:
        subprocess.run(
            [*command, *arguments], cwd=tmp_path, env=environment, check=True, timeout=60
        )

    run(*start)
    try:
        url = f"http://127.0.0.1:{apis['inference']}"
        wait_until(lambda: httpx.post(f"{url}/predictions/talker").status_code == 200)
        httpx.post(f"{url}/predictions/talker?a=b", headers={"x-request-id": "1"})
    finally:
        run("--stop", "--foreground")
    logs, metrics = tmp_path / "my logs", tmp_path / "my metrics"
    assert {path.name for path in logs.glob("*.log")} == {
        "access_log.log", "model_log.log", "ts_log.log",
    }  # fmt: skip
    assert {path.name for path in metrics.iterdir()} == {"model_metrics.log", "ts_metrics.log"}

    model_log = (logs / "model_log.log").read_text()
    for level, stream, text in (
        ("INFO ", "stdout", "printed while loading"),
        ("INFO ", "stdout", "printed"),
        ("WARN ", "stderr", "printed on stderr"),
        ("INFO ", "stdout", "logged at info"),
        ("WARN ", "stdout", "logged at warning"),
        ("ERROR", "stdout", "logged at error"),
        ("FATAL", "stdout", "logged at critical"),
    ):
        line = rf"^{TIME} \[{level}\] {WORKER}-{stream} MODEL_LOG - {text}$"
        assert re.search(line, model_log, re.MULTILINE), text
    assert "below the level" not in model_log

    access = (logs / "access_log.log").read_text().splitlines()
    line = rf'{TIME} - /127\.0\.0\.1:\d+ "POST /predictions/talker\?a=b HTTP/1\.1" 200 \d+'
    assert re.fullmatch(line, access[-1])

    server = (logs / "ts_log.log").read_text().splitlines()
    assert len(server) == len(set(server))
    for text in ("Model server started.", "Torch worker started.", "Model talker loaded."):
        assert sum(text in line for line in server) == 1
    for line in server:
        assert re.match(rf"{TIME} \[(INFO |WARN |ERROR)\] \S+ flambeau\.\S+ - ", line), line
    assert sum("--log-config" in line for line in server) == 1
    assert "Model server stopped." in server[-1]
    assert "PredictionTime.ms" in (metrics / "model_metrics.log").read_text()
    assert "Requests2XX.Count:1.0" in (metrics / "ts_metrics.log").read_text()
