"""Each form in which an archive names its labels."""

import json
from pathlib import Path

import pytest

from flambeau.errors import ConfigError
from flambeau.handlers.labels import read_labels, warn_missing_labels


@pytest.mark.parametrize(
    "content",
    [
        {"0": "a", "1": "b"},
        {"1": "b", "0": "a"},
        {"0": ["n0", "a"], "1": ["n1", "b"]},
        {"label_list": "[a, b]"},
        {"label_list": "['a', \"b\"]"},
        {"label_list": ["a", "b"]},
        {"object_type_names": ["a", "b"]},
        ["a", "b"],
        {"a": 0, "b": 1},
    ],
)
def test_forms_of_index_to_name(tmp_path: Path, content: object) -> None:
    """All forms that TorchServe's handlers read give the same list."""
    (tmp_path / "index_to_name.json").write_text(json.dumps(content))
    assert read_labels(tmp_path, {"id2label": {"0": "x", "1": "y"}}) == ["a", "b"]


def test_configuration_names_labels_without_the_file(tmp_path: Path) -> None:
    """id2label is used where there is no index_to_name.json; neither is no labels."""
    assert read_labels(tmp_path, {"id2label": {"0": "x", "1": "y"}}) == ["x", "y"]
    assert read_labels(tmp_path, {}) is None


def test_gaps_are_numbered(tmp_path: Path) -> None:
    """An index without a name is LABEL_n."""
    (tmp_path / "index_to_name.json").write_text('{"0": "a", "2": "c"}')
    assert read_labels(tmp_path, {}) == ["a", "LABEL_1", "c"]


@pytest.mark.parametrize("content", ["{", "3", "{}", "[]", '{"a": "b"}', '{"0": {}}', "[null]"])
def test_other_content_is_an_error_with_an_example(tmp_path: Path, content: str) -> None:
    """A file that names no labels is refused and named."""
    (tmp_path / "index_to_name.json").write_text(content)
    with pytest.raises(ConfigError, match=r"index_to_name\.json"):
        read_labels(tmp_path, {})


def test_huge_indices_are_refused(tmp_path: Path) -> None:
    """One key cannot make the list fill the memory."""
    (tmp_path / "index_to_name.json").write_text('{"4000000000": "a"}')
    with pytest.raises(ConfigError):
        read_labels(tmp_path, {})


def test_missing_labels_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Fewer names than outputs is one warning; enough names are none."""
    warn_missing_labels(["a", "b"], 2)
    assert not caplog.records
    warn_missing_labels(["a"], 3)
    assert len(caplog.records) == 1
    assert "LABEL_1" in caplog.text
