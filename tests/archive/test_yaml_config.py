"""The shared reader of `model-config.yaml`."""

from pathlib import Path

import pytest

from flambeau.archive.yaml_config import MAX_YAML_BYTES, read_yaml
from flambeau.errors import ArchiveError, ErrorKind


def test_a_mapping_is_returned_and_an_empty_file_is_an_empty_one(tmp_path: Path) -> None:
    """Comments alone say nothing, which is allowed."""
    path = tmp_path / "model-config.yaml"
    path.write_text("minWorkers: 2\nhandler:\n  mapping: {a: [1, x]}\n")
    assert read_yaml(path) == {"minWorkers": 2, "handler": {"mapping": {"a": [1, "x"]}}}
    path.write_text("# nothing\n")
    assert read_yaml(path) == {}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a: [1\nb: 2\n", "is not valid YAML: .*line 2"),
        (b"x: 2024-99-99\n", "holds a value that YAML cannot represent: month"),
        (b"x: " + b"1" * 5000, "holds a value that YAML cannot represent: .*4300"),
        (b'x: !!int ""\n', "holds a value that YAML cannot represent"),
        (b"x: !!timestamp soon\n", "holds a value that YAML cannot represent"),
        (b"x: !!python/object/apply:os.getcwd []\n", "is not valid YAML: .*python"),
        (b"x: " + b"[" * 5000, "is nested more than 64 levels"),
        (b"[" * MAX_YAML_BYTES, "is nested more than 64 levels"),
        (b"- " * 5000, "is nested more than 64 levels"),
        (b"x: \xff\n", "is not UTF-8"),
        (b"- a\n", "line 1: it must be a mapping of keys to values, not list"),
        (b"#" * (MAX_YAML_BYTES + 1), "is larger than 1048576 bytes"),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path: Path, content: bytes, reason: str) -> None:
    """Whatever PyYAML raises, a person reads the file's name and the reason."""
    path = tmp_path / "model-config.yaml"
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"model-config\.yaml,? " + reason) as raised:
        read_yaml(path)
    assert raised.value.kind is ErrorKind.INVALID_ARCHIVE
    assert "\n" not in raised.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The manifest may name a file that the archive lacks."""
    with pytest.raises(ArchiveError, match=r"^lost\.yaml cannot be read: No such file"):
        read_yaml(tmp_path / "lost.yaml")
