"""TorchServe's archiver as a Python package: `model_archiver` over our packer (section 1.1)."""

import argparse
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

import model_archiver
from flambeau.archive.manifest import read_manifest
from model_archiver import ModelArchiver, ModelArchiverConfig
from model_archiver.arg_parser import ArgParser
from model_archiver.manifest_components.manifest import Manifest, RuntimeType
from model_archiver.manifest_components.model import Model
from model_archiver.model_archiver_error import ModelArchiverError
from model_archiver.model_packaging import generate_model_archive, package_model
from model_archiver.model_packaging_utils import ModelExportUtils
from model_archiver.version import __version__

MANIFEST = "MAR-INF/MANIFEST.json"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a handler and other files."""
    for name in ("my.py", "w.bin", "a.txt", "reqs.txt", "model.yaml", "extra/b.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def manifest_of(path: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(zipfile.ZipFile(path).read(MANIFEST))
    return document


def test_a_configuration_is_packed_as_the_command_would() -> None:
    """Every field of the record arrives; paths may be texts or `Path`s; the current folder is default."""
    config = ModelArchiverConfig(
        model_name="m",
        handler="my.py",
        version="2.0",
        serialized_file=Path("w.bin").as_posix(),
        extra_files="a.txt,extra",
        runtime=RuntimeType.PYTHON3.value,
        requirements_file="reqs.txt",
        config_file=Path("model.yaml"),  # type: ignore[arg-type]  # as users pass it
    )
    ModelArchiver.generate_model_archive(config)
    document = manifest_of("m.mar")
    assert document["runtime"] == "python3"
    assert document["model"] == {
        "modelName": "m",
        "serializedFile": "w.bin",
        "handler": "my.py",
        "modelVersion": "2.0",
        "requirementsFile": "reqs.txt",
        "configFile": "model.yaml",
    }
    names = set(zipfile.ZipFile("m.mar").namelist())
    assert names == {
        MANIFEST, "my.py", "w.bin", "a.txt", "b.txt", "reqs.txt", "model.yaml"
    }  # fmt: skip
    assert model_archiver.__version__ == __version__ == "0.12.0"


def test_the_command_line_is_parsed_where_no_configuration_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`generate_model_archive()` and `ArgParser` read `sys.argv`."""
    flags = "--model-name m -v 1.0 --handler my.py --archive-format no-archive --export-path ."
    monkeypatch.setattr(sys, "argv", ["torch-model-archiver", *flags.split()])
    assert ArgParser.export_model_args_parser() == ModelArchiverConfig(
        model_name="m", handler="my.py", version="1.0", archive_format="no-archive",
        extra_files="", export_path=".",
    )  # fmt: skip
    generate_model_archive()
    assert read_manifest(Path("m")).model.handler == "my.py"


def test_a_manifest_of_one_s_own_is_written_as_it_is() -> None:
    """`package_model(args, manifest)`, as older scripts call it with a namespace."""
    args = argparse.Namespace(
        model_name="m", handler="my.py", version="1.0", serialized_file=None, model_file=None,
        extra_files=None, runtime="python", export_path=".", archive_format="default", force=False,
        requirements_file=None,
    )  # fmt: skip
    text = ModelExportUtils.generate_manifest_json(args)
    package_model(args, text)
    assert zipfile.ZipFile("m.mar").read(MANIFEST).decode() == text
    model = Model("m", "x/w.bin", "dir/my.py:f", model_version="1", extensions="e")
    assert json.loads(str(Manifest("LSP", model)))["model"] == {
        "modelName": "m", "serializedFile": "w.bin", "handler": "my.py:f", "modelVersion": "1",
        "extensions": "e",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model_name": "!"}, ModelArchiverError, "not allowed"),
        ({"export_path": "no"}, ModelArchiverError, "export-path no is not a directory"),
        ({"handler": "no.py"}, FileNotFoundError, r"no\.py does not exist"),
        ({"extra_files": "no"}, FileNotFoundError, "File does not exist: no"),
        ({"serialized_file": "no"}, ModelArchiverError, "File does not exist: no"),
        ({"archive_format": "rar"}, ModelArchiverError, "rar"),
    ],
)
def test_errors(change: dict[str, str], error: type[Exception], message: str) -> None:
    """`ModelArchiverError`; where a file is missing it is a `FileNotFoundError` too."""
    fields = {"model_name": "m", "handler": "my.py", "version": "1.0"} | change
    with pytest.raises(error, match=message):
        generate_model_archive(ModelArchiverConfig(**fields))  # type: ignore[arg-type]  # texts only
    assert not Path("m.mar").exists()


def test_an_archive_that_exists() -> None:
    """An error without `force`, and overwritten with it."""
    config = ModelArchiverConfig(model_name="m", handler="my.py", version="1.0")
    generate_model_archive(config)
    with pytest.raises(ModelArchiverError, match="already exists"):
        generate_model_archive(config)
    with pytest.raises(ModelArchiverError, match="already exists"):
        ModelExportUtils.check_mar_already_exists("m", None, overwrite=False)
    config.force = True
    config.version = "3.0"
    generate_model_archive(config)
    assert manifest_of("m.mar")["model"]["modelVersion"] == "3.0"


def test_the_steps_one_by_one(here: Path) -> None:
    """`copy_artifacts` and `archive`; the staging folder is a fresh one, and nobody else's."""
    folder = ModelExportUtils.copy_artifacts(
        "m", "python", handler="my", extra_files="extra", model_file=None
    )
    assert sorted(path.name for path in Path(folder).iterdir()) == ["b.txt", "my.py"]
    ModelExportUtils.archive(".", "m", folder, "{}", "tgz")
    assert Path("m.tar.gz").is_file()
    ModelExportUtils.validate_inputs("m", ".")
    with pytest.raises(ModelArchiverError, match="cannot name a model"):
        ModelExportUtils.validate_inputs("a b", ".")
    assert ModelExportUtils.find_unique(["a.pt", "b.txt"], ".pt") == "a.pt"
    with pytest.raises(ModelArchiverError, match="Only one"):
        ModelExportUtils.find_unique(["a.pt", "b.pt"], ".pt")
