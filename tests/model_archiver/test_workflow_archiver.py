"""`torch-workflow-archiver`, and `workflow_archiver` as a Python package (section 1.7)."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from flambeau.cli.torch_workflow_archiver import main
from workflow_archiver.version import __version__
from workflow_archiver.workflow_archiver_error import WorkflowArchiverError
from workflow_archiver.workflow_packaging import generate_workflow_archive
from workflow_archiver.workflow_packaging_utils import WorkflowExportUtils

FLAGS = ["--workflow-name", "w", "--spec-file", "spec.yaml"]
MANIFEST = "WAR-INF/MANIFEST.json"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a workflow's files."""
    for name in ("spec.yaml", "fun.py", "a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    """A zip with the files at its root and a manifest of TorchServe's keys; nothing on stdout."""
    Path("out").mkdir()
    more = ["--handler", "fun.py", "--extra-files", "a.txt, b.txt", "--export-path", "out", "-f"]
    assert main([*FLAGS, *more]) == 0
    archive = zipfile.ZipFile("out/w.war")
    assert set(archive.namelist()) == {MANIFEST, "spec.yaml", "fun.py", "a.txt", "b.txt"}
    document = json.loads(archive.read(MANIFEST))
    assert list(document) == ["createdOn", "workflow", "archiverVersion"]
    section = {"workflowName": "w", "specFile": "spec.yaml", "handler": "fun.py"}
    assert document["workflow"] == section
    assert capsys.readouterr().out == ""


def test_a_handler_is_optional() -> None:
    """As TorchServe's flag says, and its archiver does not do: no crash, no key in the manifest."""
    assert main(FLAGS) == 0
    document = json.loads(zipfile.ZipFile("w.war").read(MANIFEST))
    assert document["workflow"] == {"workflowName": "w", "specFile": "spec.yaml"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workflow-name", "!"], "workflow name '!' is not allowed"),
        (["--export-path", "no"], "export-path no is not a directory"),
        (["--spec-file", "no"], "File does not exist: no (named by --spec-file)"),
        (["--handler", "no"], "File does not exist: no (named by --handler)"),
        (["--extra-files", "a.txt,no"], "File does not exist: no (named by --extra-files)"),
    ],
)
def test_errors(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line on stderr, exit code 1, nothing written."""
    assert main([*FLAGS, *flags]) == 1
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert message in printed.err
    assert not Path("w.war").exists()


def test_an_archive_that_exists(capsys: pytest.CaptureFixture[str]) -> None:
    """An error without --force, and overwritten with it."""
    assert main(FLAGS) == 0
    assert main(FLAGS) == 1
    assert "already exists" in capsys.readouterr().err
    assert main([*FLAGS, "--force"]) == 0


def test_wrong_usage() -> None:
    """A missing required flag: usage, exit code 2."""
    done = subprocess.run(
        [sys.executable, "-m", "flambeau.cli.torch_workflow_archiver", "--workflow-name", "w"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--spec-file" in done.stderr


def test_the_python_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """`generate_workflow_archive()` reads `sys.argv`; an error ends the process with status 1."""
    monkeypatch.setattr(sys, "argv", ["torch-workflow-archiver", *FLAGS, "--handler", "fun.py"])
    generate_workflow_archive()
    assert json.loads(zipfile.ZipFile("w.war").read(MANIFEST))["workflow"]["handler"] == "fun.py"
    with pytest.raises(SystemExit) as caught:
        generate_workflow_archive()
    assert caught.value.code == 1
    with pytest.raises(WorkflowArchiverError, match="already exists"):
        WorkflowExportUtils.check_war_already_exists("w", ".", overwrite=False)
    assert __version__
