"""Log files that roll, through the same logging set-up as the server's."""

import gzip
import os
import resource
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flambeau.telemetry.rolling import KEPT, RollingFile
from flambeau.telemetry.writer import lost_lines


def rolled(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.gz"))


def test_by_size(tmp_path: Path) -> None:
    """A full file is compressed under its day and a number; five are kept, the newest."""
    file = RollingFile(tmp_path / "ts_log.log", roll_bytes=20)
    (tmp_path / "ts_log.other.log.gz").write_text("somebody else's")
    for number in range(KEPT + 3):
        file.write(f"line {number:>12}\n")
    file.close()
    today = datetime.now(UTC).astimezone().date()
    assert (tmp_path / "ts_log.log").read_text() == f"line {KEPT + 2:>12}\n"
    names = [f"ts_log.{today}.{number}.log.gz" for number in range(3, KEPT + 3)]
    assert rolled(tmp_path) == sorted([*names, "ts_log.other.log.gz"])
    assert gzip.decompress((tmp_path / names[-1]).read_bytes()) == b"line %12d\n" % (KEPT + 1)


def test_by_day(tmp_path: Path) -> None:
    """What was written yesterday, by an earlier process too, goes under yesterday's date."""
    path = tmp_path / "access_log.log"
    path.write_text("old\n")
    before = datetime.now(UTC) - timedelta(days=1)
    os.utime(path, (before.timestamp(), before.timestamp()))
    file = RollingFile(path)
    file.write("new\n")
    file.close()
    assert path.read_text() == "new\n"
    assert rolled(tmp_path) == [f"access_log.{before.astimezone().date()}.1.log.gz"]


def test_a_restart_appends(tmp_path: Path) -> None:
    """Within a day and a size nothing is rolled."""
    for text in ("one\n", "two\n"):
        file = RollingFile(tmp_path / "model_log.log")
        file.write(text)
        file.close()
    assert (tmp_path / "model_log.log").read_text() == "one\ntwo\n"
    assert rolled(tmp_path) == []


def test_a_full_disk_is_told_once_and_survived(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines are lost, nobody fails; /dev/full is a disk that is always full."""
    path = tmp_path / "ts_log.log"
    path.symlink_to("/dev/full")
    file = RollingFile(path)
    file.write("lost\n")
    file.write("lost too\n")
    file.close()
    assert capsys.readouterr().err.count("lines are lost: No space left on device") == 1


def test_a_disk_that_fills_up_within_a_line_keeps_whole_lines(tmp_path: Path) -> None:
    """Half a line is taken off again, the lost ones are counted, and with room all goes on."""
    path = tmp_path / "ts_log.log"
    lost = lost_lines["disk"]
    file = RollingFile(path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (10, before[1])
    )  # writes stop there, as on a full disk
    try:
        file.write("one\ntwo\nthree\nfour\n")
        file.write("five\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_text() == "one\ntwo\n"
    assert lost_lines["disk"] - lost == 3
    file.write("six\n")
    file.close()
    assert path.read_text() == "one\ntwo\nsix\n"


def test_what_could_not_be_compressed_is_compressed_with_the_next(tmp_path: Path) -> None:
    """A full disk at the moment of rolling loses no file, and overwrites none."""
    file = RollingFile(tmp_path / "ts_log.log", roll_bytes=5)
    today = datetime.now(UTC).astimezone().date()
    (tmp_path / f"ts_log.{today}.1.log").write_text("left\n")
    for line in ("one\n", "two\n"):
        file.write(line)
    file.close()
    assert rolled(tmp_path) == [f"ts_log.{today}.1.log.gz", f"ts_log.{today}.2.log.gz"]
    found = [gzip.decompress((tmp_path / name).read_bytes()) for name in rolled(tmp_path)]
    assert found == [b"left\n", b"one\n"]
