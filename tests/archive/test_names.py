"""Names of models, versions and entries."""

from pathlib import PurePosixPath

import pytest

from flambeau.archive.names import check_name, default_model_name, entry_parts, is_plain_name
from flambeau.errors import ArchiveError, ErrorKind


@pytest.mark.parametrize("text", ["a", "BERT-base_v1.0", "0", "a" * 128, "1.0", "a..b"])
def test_names_that_are_allowed(text: str) -> None:
    """A name of the pattern is returned as it is."""
    assert check_name("model name", text) == text


def test_versions_may_have_a_plus() -> None:
    """As Python's local versions have it; names may not."""
    assert check_name("model version", "1.0+cpu") == "1.0+cpu"
    with pytest.raises(ArchiveError):
        check_name("model name", "1.0+cpu")


@pytest.mark.parametrize(
    "text", ["", ".", "..", "-a", "_a", "a b", "a/b", "a\n", "é", "a" * 129, "a\x00", "../x"]
)
def test_names_that_are_refused(text: str) -> None:
    """Everything else is an invalid input, and the message says which name and why."""
    with pytest.raises(ArchiveError, match=r"model version .* is not allowed") as caught:
        check_name("model version", text)
    assert caught.value.kind is ErrorKind.INVALID_INPUT


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("my-model.v1.mar", "my_model_v1"),
        ("store/bert.mar", "bert"),
        ("m.tar.gz", "m_tar_gz"),
        ("my-folder.v1", "my_folder_v1"),
        ("folder", "folder"),
        ("_x.mar", "x"),
        ("é.mar", "model"),
    ],
)
def test_default_model_name(path: str, name: str) -> None:
    """The name comes from the file name, and is one that `check_name` allows."""
    assert default_model_name(PurePosixPath(path)) == name
    assert check_name("model name", name)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a", ("a",)),
        ("a/b.txt", ("a", "b.txt")),
        ("./a//b/", ("a", "b")),
        ("./", ()),
        ("…/ü", ("…", "ü")),
        ("a..b", ("a..b",)),
    ],
)
def test_entry_parts(name: str, parts: tuple[str, ...]) -> None:
    """Names are split; empty parts and `.` vanish."""
    assert entry_parts(name) == parts


@pytest.mark.parametrize(
    ("name", "parts"),
    [("m/a/b", ("a", "b")), ("m/", ()), ("./a", ("a",)), ("a", ("a",)), ("m/./a", ("a",))],
)
def test_entry_parts_without_the_first(name: str, parts: tuple[str, ...]) -> None:
    """In tar.gz archives the first part goes, unless it is the only one."""
    assert entry_parts(name, drop_first=True) == parts


@pytest.mark.parametrize(
    "name",
    ["/a", "../a", "a/../b", "a/..", "C:a", "c:/a", "a\\b", "..\\a", "a\x00b", "a\nb", "\udcff"],
)
@pytest.mark.parametrize("drop_first", [False, True])
def test_hostile_entry_names(name: str, drop_first: bool) -> None:
    """A name that could reach outside is refused, also in the part that would be dropped."""
    with pytest.raises(ArchiveError, match="the entry name"):
        entry_parts(name, drop_first=drop_first)


def test_plain_names() -> None:
    """A plain name has no folder, no drive and is no special folder."""
    assert is_plain_name("model.safetensors")
    for name in ("", ".", "..", "a/b", "/a", "a\\b", "C:x", "a\x00"):
        assert not is_plain_name(name), name
