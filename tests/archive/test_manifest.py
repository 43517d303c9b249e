"""MAR-INF/MANIFEST.json."""

import json
import os
from pathlib import Path

import pytest

from flambeau import __version__
from flambeau.archive.manifest import (
    Manifest,
    ModelSection,
    decode_manifest,
    encode_manifest,
    new_manifest,
    read_manifest,
    write_manifest,
)
from flambeau.errors import ArchiveError


def put(folder: Path, text: str | bytes) -> Path:
    """Write `text` as the manifest of `folder`."""
    (folder / "MAR-INF").mkdir()
    data = text.encode() if isinstance(text, str) else text
    (folder / "MAR-INF" / "MANIFEST.json").write_bytes(data)
    return folder


def test_layout_is_torchserves() -> None:
    """Keys, their order and the date are TorchServe's; empty keys are left out."""
    section = ModelSection(model_name="m", model_version="1.0", handler="h.py", model_file="n.py")
    record = json.loads(encode_manifest(new_manifest(section)))
    assert list(record) == ["createdOn", "runtime", "model", "archiverVersion"]
    assert list(record["model"].items()) == [
        ("modelName", "m"),
        ("handler", "h.py"),
        ("modelFile", "n.py"),
        ("modelVersion", "1.0"),
    ]
    assert record["archiverVersion"] == __version__
    assert len(record["createdOn"]) == len("23/11/2026 20:44:28")


def test_round_trip(tmp_path: Path) -> None:
    """What is written is what is read."""
    manifest = new_manifest(ModelSection(model_name="m", model_version="2", handler="h"), "python3")
    write_manifest(tmp_path, encode_manifest(manifest))
    assert read_manifest(tmp_path) == manifest


def test_no_manifest(tmp_path: Path) -> None:
    """A folder without a manifest has the empty one, and Python as its runtime."""
    assert read_manifest(tmp_path) == Manifest()
    assert Manifest().runtime == "python"


def test_old_manifests(tmp_path: Path) -> None:
    """Old and unknown keys do no harm; `sourceVocab` and `envelope` are kept; numbers are texts."""
    (tmp_path / "vocab.pt").touch()
    put(
        tmp_path,
        """\ufeff{"modelServerVersion": "1.0", "specificationVersion": "1", "runtime": null,
        "implementationVersion": "1", "license": "x", "model": {"modelName": "m", "handler": null,
        "modelVersion": 1.10, "sourceVocab": "vocab.pt", "envelope": "body", "version": "3",
        "description": "old", "extensions": {"a": {"b": [1]}}}}""",
    )
    model = read_manifest(tmp_path).model
    assert (model.model_name, model.model_version, model.handler) == ("m", "1.10", "")
    assert (model.source_vocab, model.envelope) == ("vocab.pt", "body")
    assert model.extensions == {"a": {"b": ["1"]}}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "not a JSON object"),
        ("{}", "Missing Model entry in manifest file."),
        ('{"model": null}', "Missing Model entry in manifest file."),
        ('{"model": []}', r"\$\.model"),
        ('{"model": {"modelName": ["x"]}}', r"\$\.model\.modelName"),
        ('{"runtime": "java", "model": {}}', "Runtime is not defined or invalid."),
        ('{"runtime": [], "model": {}}', "Runtime is not defined or invalid."),
    ],
)
def test_broken_manifests(text: str | bytes, reason: str) -> None:
    """A broken manifest is an archive error that says what is wrong."""
    data = text.encode() if isinstance(text, str) else text
    with pytest.raises(ArchiveError, match=reason):
        decode_manifest(data)


@pytest.mark.parametrize(
    "key",
    ["serializedFile", "modelFile", "requirementsFile", "configFile", "sourceVocab", "handler"],
)
@pytest.mark.parametrize(
    "name",
    ["../x.py", "/etc/x.py", "a/x.py", "..", "a\\x.py", "x\x00.py", "absent.py", "d.py"],
)
def test_manifests_that_name_what_is_not_in_the_archive(
    tmp_path: Path, key: str, name: str
) -> None:
    """A file that a manifest names must be a regular file of the archive itself (R5)."""
    if key == "handler" and name == "..":
        name = "..:f"
    model_dir = tmp_path / "m"
    (model_dir / "a").mkdir(parents=True)
    (model_dir / "d.py").mkdir()
    for file in (tmp_path / "x.py", model_dir / "a" / "x.py"):
        file.touch()
    put(model_dir, json.dumps({"model": {key: name}}))
    with pytest.raises(ArchiveError, match=rf"{key} "):
        read_manifest(model_dir)


@pytest.mark.parametrize("handler", ["text_classifier", "my", "my:entry", "my.py", "my.py:entry"])
def test_handlers_that_a_manifest_may_name(tmp_path: Path, handler: str) -> None:
    """Built-in names, modules and files with or without a function are allowed."""
    (tmp_path / "my.py").touch()
    put(tmp_path, json.dumps({"model": {"handler": handler}}))
    assert read_manifest(tmp_path).model.handler == handler


def test_manifest_of_absurd_size(tmp_path: Path) -> None:
    """A manifest of more than a mebibyte is not read into memory."""
    put(tmp_path, '{"model": {}}' + " " * 2**20)
    with pytest.raises(ArchiveError, match="larger than"):
        read_manifest(tmp_path)


def test_manifest_that_is_not_a_file(tmp_path: Path) -> None:
    """A FIFO in the manifest's place is refused, not waited for."""
    (tmp_path / "MAR-INF").mkdir()
    os.mkfifo(tmp_path / "MAR-INF" / "MANIFEST.json")
    with pytest.raises(ArchiveError, match="is not a file"):
        read_manifest(tmp_path)
