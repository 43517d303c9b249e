"""The `torch-model-archiver` command."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from flambeau.archive.manifest import read_manifest
from flambeau.cli.torch_model_archiver import main


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a handler and a few files."""
    for name in ("my.py", "net.py", "w.bin", "a.txt", "reqs.txt", "model.yaml"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    """All flags arrive in the archive; success is one line on stderr and nothing on stdout."""
    Path("out").mkdir()
    command = """--model-name m --version 1.0 --handler my.py --serialized-file w.bin
        --model-file net.py --extra-files a.txt --requirements-file reqs.txt --config-file model.yaml
        --runtime python3 --export-path out --archive-format no-archive --force"""
    assert main(command.split()) == 0
    manifest = read_manifest(Path("out/m"))
    assert manifest.runtime == "python3"
    assert (manifest.model.serialized_file, manifest.model.model_file) == ("w.bin", "net.py")
    assert (manifest.model.requirements_file, manifest.model.config_file) == (
        "reqs.txt",
        "model.yaml",
    )
    assert Path("out/m/a.txt").exists()
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("torch-model-archiver: wrote out/m (")
    assert output.err.count("\n") == 1


def test_short_flags_and_equals_signs() -> None:
    """`-v`, `-r`, `-c`, `-f` and `--flag=value` are understood; `--version` is the model's."""
    Path("m.mar").touch()
    arguments = ["--model-name=m", "-v", "2.0", "--handler=my.py", "-r", "reqs.txt"]
    assert main([*arguments, "-c", "model.yaml", "-f"]) == 0
    assert b'"modelVersion": "2.0"' in zipfile.ZipFile("m.mar").read("MAR-INF/MANIFEST.json")


def test_empty_values_are_none() -> None:
    """Scripts pass the values of variables that are not set; TorchServe takes that too."""
    flags = "--serialized-file= --model-file= --extra-files= --requirements-file= --config-file="
    arguments = ["--model-name", "m", "--handler", "my.py", "--version", "", *flags.split()]
    assert main(arguments) == 0
    assert set(zipfile.ZipFile("m.mar").namelist()) == {"MAR-INF/MANIFEST.json", "my.py"}
    assert b"modelVersion" not in zipfile.ZipFile("m.mar").read("MAR-INF/MANIFEST.json")


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "--model-name m --version 1.0",
        "--model-name m --handler my.py",
        "--version",
        "--model-name m -v 1 --handler my.py --runtime java",
        "--model-name m -v 1 --handler my.py --archive-format rar",
        "--model-name m -v 1 --handler my.py --unknown",
    ],
)
def test_wrong_usage(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong usage shows the usage and exits with status 2, as in TorchServe."""
    with pytest.raises(SystemExit) as caught:
        main(arguments.split())
    assert caught.value.code == 2
    assert "usage: torch-model-archiver" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changed",
    [
        "--handler no.py",
        "--model-name !",
        "--export-path no",
        "--extra-files no",
        "--serialized-file no",
        "-c no",
    ],
)
def test_errors(changed: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An error is one line on stderr, status 1, and no traceback."""
    assert main(["--model-name", "m", "-v", "1", "--handler", "my.py", *changed.split()]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("torch-model-archiver: error: ")
    assert output.err.count("\n") == 1
    assert not Path("m.mar").exists()


def test_added_files_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """What was added without being named is said before the archive's name."""
    Path("bert").mkdir()
    for name in ("bert/model.safetensors", "bert/tokenizer.json"):
        Path(name).touch()
    arguments = "--model-name m -v 1 --handler transformers_handler --serialized-file"
    assert main([*arguments.split(), "bert/model.safetensors"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "added tokenizer.json from bert" in lines[0]


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` names every flag."""
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for flag in (
        *("--model-name", "-v", "--version", "--handler", "--serialized-file", "--model-file"),
        *("--extra-files", "-r", "--requirements-file", "-c", "--config-file", "--runtime"),
        *("--export-path", "--archive-format", "-f", "--force", "transformers_handler"),
    ):
        assert flag in text, flag


def test_start_is_light() -> None:
    """The command imports no framework and no HTTP client, which would cost seconds."""
    check = (
        "import sys, flambeau.cli.torch_model_archiver\n"
        "heavy = {'torch', 'transformers', 'httpx', 'numpy', 'typer', 'starlette'}\n"
        "sys.exit(repr(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
