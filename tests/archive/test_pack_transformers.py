"""What is packed besides the named files: tokenizers, configurations and shards of Transformers models."""

import json
from pathlib import Path

import pytest

from flambeau.archive.contents import is_transformers_handler
from flambeau.archive.pack import pack
from flambeau.errors import ArchiveError
from tests.archive.packing import manifest_of, members, request

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def hub_folder(here: Path) -> Path:
    """A folder as `save_pretrained` leaves it."""
    folder = here / "bert"
    folder.mkdir()
    for name in ("model.safetensors", "config.json", "tokenizer.json", "vocab.txt", "other.txt"):
        (folder / name).write_text(name)
    (here / "my.py").write_text("import transformers\n")
    return folder


def test_tokenizer_is_packed_with_the_weights(hub_folder: Path, tmp_path: Path) -> None:
    """Tokenizer and configuration beside the weights come along, and that is told in one line."""
    told: list[str] = []
    path = pack(request(serialized_file=hub_folder / "model.safetensors"), told.append)
    assert members(path) == {"my.py", *(file.name for file in hub_folder.iterdir())} - {"other.txt"}
    assert told == [
        f"added config.json, tokenizer.json, vocab.txt from {hub_folder}, "
        "where the serialized file is"
    ]
    assert manifest_of(path, tmp_path).model.serialized_file == "model.safetensors"


def test_named_files_come_before_added_ones(hub_folder: Path, here: Path) -> None:
    """A configuration that the user named is the one that is packed."""
    (here / "config.json").write_text("mine")
    path = pack(
        request(
            serialized_file=hub_folder / "model.safetensors",
            extra_files="config.json",
            archive_format="no-archive",
        )
    )
    assert (path / "config.json").read_text() == "mine"
    assert (path / "tokenizer.json").exists()


@pytest.mark.parametrize(
    ("handler", "added"), [("text_classifier", 0), ("transformers_handler", 3)]
)
def test_built_in_handlers(hub_folder: Path, handler: str, added: int) -> None:
    """Only a Transformers handler gets the tokenizer."""
    path = pack(request(handler=handler, serialized_file=hub_folder / "model.safetensors"))
    assert len(members(path)) == 1 + added


def test_shards(hub_folder: Path, tmp_path: Path) -> None:
    """The shards of an index come along; a missing one is an error, a path is refused."""
    index = hub_folder / "model.safetensors.index.json"
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index.write_text(json.dumps({"weight_map": {"a": names[0], "b": names[1], "c": names[0]}}))
    (hub_folder / names[0]).touch()
    with pytest.raises(ArchiveError, match=f"{names[1]}, which is not beside it"):
        pack(request(serialized_file=index, handler="base_handler"))
    (hub_folder / names[1]).touch()
    path = pack(request(serialized_file=index, handler="base_handler"))
    assert members(path) == {index.name, *names}
    for content in ('{"weight_map": {"a": "../x"}}', '{"weight_map": {"a": 1}}', "[]", "{"):
        index.write_text(content)
        with pytest.raises(ArchiveError, match=r"is not a shard index|not a file name"):
            pack(request(serialized_file=index, force=True))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("transformers_handler", True),
        ("import transformers", True),
        ("import numpy, transformers.models.bert as b", True),
        ("def f():\n    from transformers import AutoModel", True),
        ("from flambeau.handlers.native import Handler", True),
        ("from flambeau.handlers import native", True),
        ("base_handler", False),
        ("import torch", False),
        ("import transformers_tools", False),
        ("from . import transformers", False),
        ("# import transformers", False),
        ("s = 'import transformers \\d'", False),
        ("import transformers\nprint 1", False),
        ("\x00", False),
    ],
)
def test_is_transformers_handler(source: str, expected: bool) -> None:
    """A handler counts by what it imports, wherever in the file."""
    assert is_transformers_handler(source) is expected
