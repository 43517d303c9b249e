"""Log files: TorchServe's names and formats, and lines that nobody can forge."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flambeau.telemetry.logging import configure_logging
from flambeau.testing.echo import predict, register, write_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until

NAMES = ("ACCESS_LOG", "MODEL_LOG", "flambeau", "uvicorn", "asyncio", "TS_METRICS", "MODEL_METRICS")
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3}"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Log files in a folder of this test's own; the loggers are as before at the end."""
    configure_logging(tmp_path / "logs", console=None)
    yield tmp_path / "logs"
    configure_logging(None, console=None)
    for name in NAMES:
        logging.getLogger(name).propagate = True
        logging.getLogger(name).setLevel(logging.NOTSET)


def lines(folder: Path, name: str) -> list[str]:
    return (folder / name).read_text().split("\n")[:-1]


def test_a_record_stays_one_record(folder: Path) -> None:
    """Line breaks indent what follows; other control characters are written out."""
    text = "a\nb\r\nc\x1b[2J\x00\x7f\x85\u2028é\td"
    logging.getLogger("MODEL_LOG").info("%s", text)
    logging.getLogger("MODEL_LOG").warning("next")
    wait_until(lambda: len(lines(folder, "model_log.log")) == 4)
    first, second, third, last = lines(folder, "model_log.log")
    assert re.fullmatch(TIME + r" \[INFO \] main MODEL_LOG - a", first)
    assert second == "    b\\r"
    assert third == "    c\\x1b[2J\\x00\\x7f\\x85\\u2028é\td"
    assert re.fullmatch(TIME + r" \[WARN \] main MODEL_LOG - next", last)


@pytest.fixture
def server(folder: Path, tmp_path: Path) -> Iterator[RunningServer]:
    write_model(tmp_path / "store", "echo")
    with running_server(tmp_path / "store", tmp_path / "cache") as running:
        register(running, "echo")
        yield running


def test_the_access_log_has_one_line_a_response(server: RunningServer, folder: Path) -> None:
    """`time - ip:port "METHOD uri HTTP/1.1" status millis` (section 2.7)."""
    predict(server, "echo")
    httpx.get(f"{server.inference}/a%0d%0ab?x=%1b[1m")
    wait_until(lambda: len(lines(folder, "access_log.log")) >= 3)
    asked, unknown = lines(folder, "access_log.log")[-2:]
    form = TIME + r' - /127\.0\.0\.1:\d+ "%s HTTP/1\.1" %d \d+'
    assert re.fullmatch(form % ("POST /predictions/echo", 200), asked)
    assert re.fullmatch(form % (r"GET /a%0[dD]%0[aA]b\?x=%1[bB](\[|%5B)1m", 404), unknown)


def test_what_handlers_print_and_log_is_told_with_the_worker_s_name(
    server: RunningServer, folder: Path
) -> None:
    """Prints at INFO; an exception with its traceback, which the client never sees."""
    predict(server, "echo", x_do="print", x_text="printed by the handler")
    predict(server, "echo", x_do="raise")
    for part in ("printed by the handler", "secret text"):
        wait_until(lambda part=part: part in (folder / "model_log.log").read_text())  # type: ignore[misc]
    text = (folder / "model_log.log").read_text()
    assert re.search(
        TIME + r" \[INFO \] W-9000-echo_1\.0-stdout MODEL_LOG - printed by the handler\n", text
    )
    assert "    ValueError: secret text of an exception" in text


def test_the_server_s_own_log(server: RunningServer, folder: Path) -> None:
    """Starts, workers and models; TorchServe's words where scripts look for them."""
    for part in ("Model server started.", "Torch worker started.", "Model echo loaded."):
        wait_until(lambda part=part: part in (folder / "ts_log.log").read_text())  # type: ignore[misc]


def test_setting_up_twice_leaves_no_open_file(tmp_path: Path) -> None:
    """The first folder's files are closed."""
    for name in ("one", "two"):
        configure_logging(tmp_path / name, console=None)
    logging.getLogger("MODEL_LOG").info("x")
    wait_until(lambda: (tmp_path / "two" / "model_log.log").stat().st_size > 0)
    assert (tmp_path / "one" / "model_log.log").read_text() == ""
    assert (tmp_path / "two" / "model_log.log").read_text() != ""
    configure_logging(None, console=None)
    for name in NAMES:
        logging.getLogger(name).propagate = True
        logging.getLogger(name).setLevel(logging.NOTSET)
