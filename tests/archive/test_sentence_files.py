"""What sentence-transformers saved travels with a model: served in place, packed, prepared, fetched."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from flambeau.archive.hub import needed_files
from flambeau.archive.model_folder import adopt, graph_folder, pack_folder, read_model_folder
from flambeau.archive.pack import PackRequest
from flambeau.archive.sentence_files import is_sentence_model, sentence_files
from flambeau.archive.store import ModelStore
from flambeau.cli.targets import Choices, settings_of
from flambeau.handlers.prepare import prepare
from flambeau.handlers.prepare_request import PrepareRequest
from flambeau.handlers.settings import read_settings
from flambeau.testing.models import tiny_model
from flambeau.testing.native import ServedNative
from flambeau.testing.sentence_models import add_modules, dense_weights
from tests.archive.packing import members

FILES = {
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "2_Dense/config.json",
    "2_Dense/model.safetensors",
    "3_Normalize/config.json",
}
SIZE = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a module that makes 8 numbers of its 32."""
    place = tiny_model(tmp_path_factory.mktemp("sentences") / "model", "embeddings")
    config: Any = {"in_features": 32, "out_features": SIZE}
    modules = [
        ("Pooling", {}, {}),
        ("Dense", config, dense_weights(32, SIZE)),
        ("Normalize", {}, {}),
    ]
    return add_modules(place, modules)


def request(folder: Path) -> PackRequest:
    return PackRequest(model_name="m", version="1.0", handler="", export_path=folder)


def test_modules_say_what_a_model_is_for(folder: Path) -> None:
    """A folder with modules makes vectors, also where nobody chose a task."""
    assert settings_of(read_model_folder(folder), Choices()) == {"handler": {"task": "embeddings"}}
    assert read_settings(folder, {}).task == "embeddings"
    assert read_settings(folder, {"handler": {"task": "feature-extraction"}}).task == (
        "feature-extraction"
    )


def test_a_cross_encoder_with_modules_makes_no_vectors(folder: Path, tmp_path: Path) -> None:
    """Newer versions list modules for these, too, and say what they are."""
    place = shutil.copytree(folder, tmp_path / "model")
    (place / "config_sentence_transformers.json").write_text('{"model_type": "CrossEncoder"}')
    assert not is_sentence_model(place)
    assert is_sentence_model(folder)


def test_a_folder_is_served_with_its_modules(folder: Path, tmp_path: Path) -> None:
    """Links to all of them, in their folders."""
    path = adopt(read_model_folder(folder), tmp_path, "m", "1.0", {})
    assert members(path) >= FILES


def test_an_archive_is_packed_with_its_modules(folder: Path, tmp_path: Path) -> None:
    """And its vectors are those of the folder."""
    model = read_model_folder(folder)
    settings = settings_of(model, Choices())
    (tmp_path / "scratch").mkdir()
    told: list[str] = []
    path = pack_folder(model, request(tmp_path), settings, tmp_path / "scratch", told.append)
    assert members(path) >= FILES
    assert "2_Dense/model.safetensors" in told[-1]
    opened = ModelStore(tmp_path, tmp_path / "cache").open(path)
    asked = {"inputs": ["light", "Ada lived in London"]}
    found = ServedNative(opened.model_dir)(asked)
    assert found == ServedNative(folder)(asked)
    assert [len(vector) for vector in found[0]] == [SIZE, SIZE]


def test_graphs_are_packed_with_the_modules(folder: Path, tmp_path: Path) -> None:
    """A model without its weights, and one in the layout of the hub."""
    graph = tmp_path / "model.onnx"
    graph.write_bytes(b"graph")
    alone = graph_folder(read_model_folder(folder), [graph], tmp_path / "alone")
    assert set(sentence_files(alone.path)) == FILES
    hub = shutil.copytree(folder, tmp_path / "hub")
    (hub / "model.safetensors").unlink()
    (hub / "onnx").mkdir()
    graph.rename(hub / "onnx" / "model.onnx")
    path = pack_folder(read_model_folder(hub), request(tmp_path), {}, tmp_path, lambda _: None)
    assert members(path) >= FILES | {"model.onnx", "tokenizer.json"}


def test_a_prepared_model_has_its_modules(folder: Path, tmp_path: Path) -> None:
    """Saved anew, twice, it gives the same vectors."""
    output = tmp_path / "prepared"
    asked = PrepareRequest(model_name=str(folder), save_mode="pretrained", output=output)
    prepare(asked)
    assert prepare(asked) == output
    assert members_of(output) >= FILES
    text = {"inputs": "Ada lived in London"}
    assert ServedNative(output)(text) == ServedNative(folder)(text)


def members_of(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_modules_are_fetched_from_the_hub() -> None:
    """Configuration and weights of each, in the safer form, and no other folders."""
    pickled = {"2_Dense/pytorch_model.bin", "4_LayerNorm/pytorch_model.bin"}
    others = {"onnx/model.onnx", "docs/1_a.md", "1_Pooling/train.py", "_2/config.json"}
    names = FILES | pickled | others | {"4_LayerNorm/config.json", "config.json"}
    wanted = FILES | {"4_LayerNorm/config.json", "4_LayerNorm/pytorch_model.bin", "config.json"}
    needed = needed_files({*names, "model.safetensors"})
    assert set(needed) == wanted | {"model.safetensors"}
    without = needed_files({*names, "model.safetensors"} - {"modules.json"})
    assert not [name for name in without if "/" in name]


@pytest.mark.parametrize("listed", ["[", "3", '[{"path": "../out"}, 7, {"path": "/etc"}]'])
def test_broken_lists_of_modules_name_no_files(listed: str, tmp_path: Path) -> None:
    """Whoever loads the model says what is wrong; nothing outside of the folder is packed."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("{}")
    place = tmp_path / "model"
    place.mkdir()
    (place / "modules.json").write_text(listed)
    assert sentence_files(place) == ["modules.json"]
    assert json.dumps(sentence_files(tmp_path)) == "[]"
